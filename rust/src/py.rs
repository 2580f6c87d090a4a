//! The Python binding: converts, releases the GIL, calls, maps the error.  Nothing else.
#![allow(unsafe_code)]
#![allow(clippy::needless_pass_by_value)] // functions called from Python own what they extract

mod baking;
mod digest;
mod job;
mod mapped;
mod programs;
mod results;
mod scratch;
mod spaces;
mod statistics;
mod verbs;
mod writing;

use std::ops::Range;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use rayon::prelude::*;

use self::job::{RawJob, Written, written};
use crate::dtype::{Dtype, Matrix};
use crate::group::{Group, Member};
use crate::rng::Stream;
use crate::{Error, dense, expand, gram, header, probe, recompress};

pyo3::create_exception!(
    _core,
    CoreError,
    PyValueError,
    "Refusal of a kernel: kind, message, group, member, side (the last three may be None)."
);

type Bytes = PyBuffer<u8>;
type Outcome<T> = std::result::Result<T, (Option<usize>, Error)>;

/// up dtype, up bytes, down dtype, down bytes, rank, factor, first row, rows of up.
#[derive(FromPyObject)]
struct RawMember(String, Bytes, String, Bytes, usize, f64, usize, usize);

/// rows, cols, members.
#[derive(FromPyObject)]
struct RawGroup(usize, usize, Vec<RawMember>);

fn borrow(buffer: &Bytes) -> Result<&[u8], Error> {
    if !buffer.is_c_contiguous() {
        return Err(Error::Shape {
            what: "buffer",
            expected: "contiguous bytes".into(),
            got: "a strided buffer".into(),
        });
    }
    // SAFETY: the PyBuffer keeps the exporter's memory alive and fixed in size while it is held,
    // and it is held for the whole call.  Callers must not write to inputs during the call.
    Ok(unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast::<u8>(), buffer.len_bytes()) })
}

fn borrow_mut(buffer: &mut Bytes) -> Result<&mut [u8], Error> {
    if buffer.readonly() || !buffer.is_c_contiguous() {
        return Err(Error::Shape {
            what: "output buffer",
            expected: "writable contiguous bytes".into(),
            got: "a read-only or strided buffer".into(),
        });
    }
    // SAFETY: as above; the buffer is writable, and every call borrows an output exactly once.
    Ok(unsafe { std::slice::from_raw_parts_mut(buffer.buf_ptr().cast::<u8>(), buffer.len_bytes()) })
}

fn borrow_floats(buffer: &mut PyBuffer<f32>) -> Result<&mut [f32], Error> {
    if buffer.readonly() || !buffer.is_c_contiguous() {
        return Err(Error::Shape {
            what: "output buffer",
            expected: "writable contiguous float32".into(),
            got: "a read-only or strided buffer".into(),
        });
    }
    // SAFETY: as above; PyBuffer has checked item type and alignment.
    Ok(unsafe {
        std::slice::from_raw_parts_mut(buffer.buf_ptr().cast::<f32>(), buffer.item_count())
    })
}

fn borrow_values(buffer: &PyBuffer<f32>) -> Result<&[f32], Error> {
    if !buffer.is_c_contiguous() {
        return Err(Error::Shape {
            what: "buffer",
            expected: "contiguous float32".into(),
            got: "a strided buffer".into(),
        });
    }
    // SAFETY: as above; PyBuffer has checked item type and alignment.
    Ok(unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast::<f32>(), buffer.item_count()) })
}

fn borrow_doubles(buffer: &PyBuffer<f64>) -> Result<&[f64], Error> {
    if !buffer.is_c_contiguous() {
        return Err(Error::Shape {
            what: "buffer",
            expected: "contiguous float64".into(),
            got: "a strided buffer".into(),
        });
    }
    // SAFETY: as above; PyBuffer has checked item type and alignment.
    Ok(unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast::<f64>(), buffer.item_count()) })
}

fn borrow_doubles_mut(buffer: &mut PyBuffer<f64>) -> Result<&mut [f64], Error> {
    if buffer.readonly() || !buffer.is_c_contiguous() {
        return Err(Error::Shape {
            what: "output buffer",
            expected: "writable contiguous float64".into(),
            got: "a read-only or strided buffer".into(),
        });
    }
    // SAFETY: as above.
    Ok(unsafe {
        std::slice::from_raw_parts_mut(buffer.buf_ptr().cast::<f64>(), buffer.item_count())
    })
}

impl RawMember {
    fn view(&self, cols: usize) -> Result<Member<'_>, Error> {
        let Self(up_dtype, up, down_dtype, down, rank, factor, row_start, rows) = self;
        Ok(Member {
            up: Matrix::new(Dtype::parse(up_dtype)?, *rows, *rank, borrow(up)?)?,
            down: Matrix::new(Dtype::parse(down_dtype)?, *rank, cols, borrow(down)?)?,
            factor: *factor,
            row_start: *row_start,
        })
    }
}

impl RawGroup {
    fn view(&self) -> Result<Group<'_>, Error> {
        let members: Result<_, _> = self.2.iter().map(|raw| raw.view(self.1)).collect();
        Group::new(self.0, self.1, members?)
    }
}

fn views(raw: &[RawGroup]) -> Outcome<Vec<Group<'_>>> {
    let numbered = raw.iter().enumerate();
    numbered.map(|(index, group)| group.view().map_err(|e| (Some(index), e))).collect()
}

fn to_py((group, error): (Option<usize>, Error)) -> PyErr {
    let kind = match error {
        Error::Shape { .. } => "shape",
        Error::Dtype { .. } => "dtype",
        Error::Param { .. } => "param",
        Error::NonFinite { .. } => "non_finite",
        Error::Overflow { .. } => "overflow",
        Error::Format(_) => "format",
    };
    let (member, side) = match error {
        Error::NonFinite { member, side } => (Some(member), Some(side)),
        _ => (None, None),
    };
    CoreError::new_err((kind, error.to_string(), group, member, side))
}

/// Runs `work` without the GIL in a pool of `threads` (all cores if `None`).
fn enter<T: Send>(
    py: Python<'_>,
    threads: Option<usize>,
    work: impl FnOnce() -> Outcome<T> + Send,
) -> PyResult<T> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0)).build();
    let pool = pool.map_err(|e| PyValueError::new_err(format!("cannot start threads: {e}")))?;
    py.detach(|| pool.install(work)).map_err(to_py)
}

/// Results of all groups, or the error of the first group that has one.
fn all<T>(results: Vec<Result<T, Error>>) -> Outcome<Vec<T>> {
    let numbered = results.into_iter().enumerate();
    numbered.map(|(index, result)| result.map_err(|e| (Some(index), e))).collect()
}

type Entries = Vec<(String, String, Vec<usize>, usize, usize)>;

/// Tensors (name, dtype, shape, start, end) and metadata of a safetensors file.
#[pyfunction]
fn read_header(py: Python<'_>, file: Bytes) -> PyResult<(Entries, Vec<(String, String)>)> {
    let parse = || {
        let parsed = header::parse(borrow(&file)?)?;
        let tensors = parsed.tensors.into_iter();
        let entries = tensors.map(|t| (t.name, t.dtype, t.shape, t.start, t.end)).collect();
        Ok((entries, parsed.metadata))
    };
    py.detach(parse).map_err(|e| to_py((None, e)))
}

/// Inner products of every group's deltas, row-major lists of N * N.
#[pyfunction]
#[pyo3(name = "gram", signature = (groups, *, threads=None))]
fn py_gram(
    py: Python<'_>,
    groups: Vec<RawGroup>,
    threads: Option<usize>,
) -> PyResult<Vec<Vec<f64>>> {
    enter(py, threads, || all(views(&groups)?.par_iter().map(gram::gram).collect()))
}

/// New factors of every group into its range of the job's arena.
#[pyfunction]
#[pyo3(name = "recompress")]
fn py_recompress(py: Python<'_>, groups: Vec<RawGroup>, mut job: RawJob) -> PyResult<Vec<Written>> {
    enter(py, job.threads, || {
        let (rule, dtype, rooms) = job.open(groups.len())?;
        let groups = views(&groups)?;
        let one = |(group, room): (&Group<'_>, &mut [u8])| {
            Ok(written(recompress::accounted(group, &rule, dtype, room)?, vec![]))
        };
        all(groups.par_iter().zip(rooms).map(one).collect())
    })
}

/// Disjoint ranges `offsets[i]..offsets[i + 1]` of `out`.
fn split<'o, T>(mut out: &'o mut [T], offsets: &[usize]) -> Outcome<Vec<&'o mut [T]>> {
    let mut parts = Vec::with_capacity(offsets.len());
    let mut at = 0;
    for pair in offsets.windows(2) {
        let range: Range<usize> = pair[0]..pair[1];
        if range.start != at || range.end < at || range.end - at > out.len() {
            let expected = "ascending offsets from 0 within the buffer".to_owned();
            let got = format!("{range:?}");
            return Err((None, Error::Shape { what: "offsets", expected, got }));
        }
        let (part, rest) = out.split_at_mut(range.end - at);
        parts.push(part);
        (out, at) = (rest, range.end);
    }
    Ok(parts)
}

/// Rows `start..stop` of a group's dense delta into `out` (f32, row-major).
#[pyfunction]
#[pyo3(name = "expand", signature = (group, start, stop, out, *, threads=None))]
fn py_expand(
    py: Python<'_>,
    group: RawGroup,
    start: usize,
    stop: usize,
    mut out: PyBuffer<f32>,
    threads: Option<usize>,
) -> PyResult<()> {
    enter(py, threads, || {
        let mut run = || expand::expand(&group.view()?, start..stop, borrow_floats(&mut out)?);
        run().map_err(|e| (Some(0), e))
    })
}

/// Estimated norms of (meant - written, meant) for every pair of groups.
#[pyfunction]
#[pyo3(name = "difference", signature = (meant, written, *, seed=0, threads=None))]
fn py_difference(
    py: Python<'_>,
    meant: Vec<RawGroup>,
    written: Vec<RawGroup>,
    seed: u64,
    threads: Option<usize>,
) -> PyResult<Vec<(f64, f64)>> {
    enter(py, threads, || {
        let (meant, written) = (views(&meant)?, views(&written)?);
        let pairs = meant.par_iter().zip(&written).enumerate();
        let one = |(index, (a, b)): (usize, (&Group<'_>, &Group<'_>))| {
            probe::difference(a, b, &Stream::new(seed, index as u64, 0)?)
        };
        all(pairs.map(one).collect())
    })
}

fn row<'b>(dtype: &str, bytes: &'b Bytes) -> Result<Matrix<'b>, Error> {
    let (dtype, bytes) = (Dtype::parse(dtype)?, borrow(bytes)?);
    Matrix::new(dtype, 1, bytes.len() / dtype.size(), bytes)
}

fn rows(deltas: &[(String, Bytes)]) -> Outcome<Vec<Matrix<'_>>> {
    deltas
        .iter()
        .map(|(dtype, bytes)| row(dtype, bytes))
        .collect::<Result<_, _>>()
        .map_err(|e| (None, e))
}

/// Inner products of dense deltas (dtype, bytes), a row-major list of N * N.
#[pyfunction]
#[pyo3(signature = (deltas, *, threads=None))]
fn dense_gram(
    py: Python<'_>,
    deltas: Vec<(String, Bytes)>,
    threads: Option<usize>,
) -> PyResult<Vec<f64>> {
    enter(py, threads, || dense::gram(&rows(&deltas)?).map_err(|e| (None, e)))
}

/// Linear combination of dense deltas into `out`, encoded as `dtype`.
#[pyfunction]
#[pyo3(signature = (deltas, coefficients, out, *, dtype, threads=None))]
fn dense_combine(
    py: Python<'_>,
    deltas: Vec<(String, Bytes)>,
    coefficients: Vec<f64>,
    mut out: Bytes,
    dtype: String,
    threads: Option<usize>,
) -> PyResult<()> {
    enter(py, threads, || {
        let deltas = rows(&deltas)?;
        let mut run =
            || dense::combine(&deltas, &coefficients, Dtype::parse(&dtype)?, borrow_mut(&mut out)?);
        run().map_err(|e| (None, e))
    })
}

/// Kernels of loramix.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("VERSION", env!("CARGO_PKG_VERSION"))?;
    module.add("CoreError", module.py().get_type::<CoreError>())?;
    module.add_function(wrap_pyfunction!(read_header, module)?)?;
    module.add_function(wrap_pyfunction!(py_gram, module)?)?;
    module.add_function(wrap_pyfunction!(py_recompress, module)?)?;
    module.add_function(wrap_pyfunction!(py_expand, module)?)?;
    module.add_function(wrap_pyfunction!(py_difference, module)?)?;
    module.add_function(wrap_pyfunction!(dense_gram, module)?)?;
    module.add_function(wrap_pyfunction!(dense_combine, module)?)?;
    module.add_function(wrap_pyfunction!(programs::run_program, module)?)?;
    module.add_function(wrap_pyfunction!(programs::program_gram, module)?)?;
    module.add_class::<scratch::Scratch>()?;
    module.add_function(wrap_pyfunction!(programs::condense, module)?)?;
    module.add_function(wrap_pyfunction!(programs::py_whole, module)?)?;
    module.add_function(wrap_pyfunction!(results::approximate, module)?)?;
    module.add_function(wrap_pyfunction!(results::store, module)?)?;
    module.add_function(wrap_pyfunction!(results::extract, module)?)?;
    module.add_function(wrap_pyfunction!(programs::kept, module)?)?;
    module.add_function(wrap_pyfunction!(programs::sketch, module)?)?;
    module.add_function(wrap_pyfunction!(spaces::recompress_mixed, module)?)?;
    module.add_function(wrap_pyfunction!(spaces::cores, module)?)?;
    module.add_function(wrap_pyfunction!(spaces::project, module)?)?;
    module.add_function(wrap_pyfunction!(statistics::statistics, module)?)?;
    module.add_function(wrap_pyfunction!(baking::bake, module)?)?;
    module.add_function(wrap_pyfunction!(baking::checksums, module)?)?;
    module.add_class::<digest::Blake3>()?;
    module.add_function(wrap_pyfunction!(verbs::disagreement, module)?)?;
    module.add_function(wrap_pyfunction!(verbs::owners, module)?)?;
    module.add_function(wrap_pyfunction!(writing::first_wrong, module)?)?;
    module.add_function(wrap_pyfunction!(verbs::first_not_finite, module)?)?;
    module.add_function(wrap_pyfunction!(writing::write_at, module)?)?;
    module.add_function(wrap_pyfunction!(verbs::give_back, module)?)
}
