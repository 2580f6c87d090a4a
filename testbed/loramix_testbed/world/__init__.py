"""The world: glyphs of fonts, treatments, prompts, and the pipeline that draws them."""
