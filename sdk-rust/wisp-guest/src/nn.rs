//! Inference: the core wasi-nn interface (`wasi_ephemeral_nn`) without pointers.
//!
//! ```no_run
//! use wisp_guest::nn::{Graph, NnError};
//!
//! fn logits(image: &[f32; 64]) -> Result<Vec<f32>, NnError> {
//!     let mut context = Graph::load_by_name("digits")?.context()?;
//!     context.set_input(0, &[1, 1, 8, 8], image)?;
//!     context.compute()?;
//!     context.get_output(0)
//! }
//! ```
//!
//! Inputs and outputs go by index, in the model's order. `Graph` and `Context` are plain handles: the platform frees
//! what is behind them when the request ends.

use std::fmt;

use crate::sys::{self, Plain};

/// No model output is read past this, whatever a host announces.
const OUTPUT_MAX: usize = 1 << 30;
/// The first guess at an output's size: enough for a thousand f32 logits.
const OUTPUT_START: usize = 4096;

/// Why the platform refused or failed: an errno of wasi-nn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NnError {
    /// 1: a handle, index, shape, type or length that does not fit the model.
    InvalidArgument,
    /// 2: the model's bytes are not of the encoding named.
    InvalidEncoding,
    /// 3: the guest exports no memory.
    MissingMemory,
    /// 4: refused for now.
    Busy,
    /// 5: the model failed or ran out of its time.
    RuntimeError,
    /// 6: the platform does not offer this.
    UnsupportedOperation,
    /// 7: an output does not fit.
    TooLarge,
    /// 8: the policy grants no model of that name.
    NotFound,
    /// Any other errno.
    Unknown(u32),
    /// An output's bytes are no whole number of the elements asked for: the type does not match the model's.
    Misfit {
        /// How many bytes the output has.
        bytes: usize,
        /// How many an element of the type asked for has.
        element: usize,
    },
}

impl From<u32> for NnError {
    fn from(errno: u32) -> Self {
        match errno {
            1 => Self::InvalidArgument,
            2 => Self::InvalidEncoding,
            3 => Self::MissingMemory,
            4 => Self::Busy,
            5 => Self::RuntimeError,
            6 => Self::UnsupportedOperation,
            7 => Self::TooLarge,
            8 => Self::NotFound,
            other => Self::Unknown(other),
        }
    }
}

impl fmt::Display for NnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InvalidArgument => "invalid argument: handle, index, shape, type or length",
            Self::InvalidEncoding => "invalid encoding",
            Self::MissingMemory => "missing memory export",
            Self::Busy => "busy",
            Self::RuntimeError => "runtime error",
            Self::UnsupportedOperation => "unsupported operation",
            Self::TooLarge => "too large",
            Self::NotFound => "no such model in the policy",
            Self::Unknown(errno) => return write!(f, "errno {errno}"),
            Self::Misfit { bytes, element } => return write!(f, "{bytes} bytes are no whole {element}-byte elements"),
        })
    }
}

impl std::error::Error for NnError {}

/// What a tensor's elements are, by their numbers in wasi-nn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum TensorType {
    /// IEEE 754 half precision.
    F16 = 0,
    /// Single precision.
    F32 = 1,
    /// Double precision.
    F64 = 2,
    /// Unsigned bytes.
    U8 = 3,
    /// Signed 32-bit integers.
    I32 = 4,
    /// Signed 64-bit integers.
    I64 = 5,
}

/// The bits of an IEEE 754 half-precision number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct F16(pub u16);

/// A Rust type that a tensor can hold: `f32`, `f64`, `u8`, `i32`, `i64` and [`F16`].
pub trait Element: Plain {
    /// Its number in wasi-nn.
    const TYPE: TensorType;
}

impl Element for F16 {
    const TYPE: TensorType = TensorType::F16;
}
impl Element for f32 {
    const TYPE: TensorType = TensorType::F32;
}
impl Element for f64 {
    const TYPE: TensorType = TensorType::F64;
}
impl Element for u8 {
    const TYPE: TensorType = TensorType::U8;
}
impl Element for i32 {
    const TYPE: TensorType = TensorType::I32;
}
impl Element for i64 {
    const TYPE: TensorType = TensorType::I64;
}

/// How a model's bytes are written; the platform reads ONNX.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[non_exhaustive]
pub enum Encoding {
    /// An ONNX file.
    Onnx = 1,
    /// Whatever the platform takes it for.
    Autodetect = 5,
}

/// Where a model is to run; the policy's word wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Target {
    /// A processor.
    Cpu = 0,
    /// A graphics processor.
    Gpu = 1,
    /// A tensor processor.
    Tpu = 2,
}

/// A model that this request may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Graph(u32);

impl Graph {
    /// Opens a model by the `name` of its entry in the policy.
    pub fn load_by_name(name: &str) -> Result<Self, NnError> {
        Ok(Self(sys::load_by_name(name)?))
    }

    /// Opens a model that the guest brings along; only where the policy says `inline_models: true`.
    pub fn load(model: &[u8], encoding: Encoding, target: Target) -> Result<Self, NnError> {
        Ok(Self(sys::load(model, encoding as u32, target as u32)?))
    }

    /// Makes a context, which holds the inputs and outputs of one inference after another.
    pub fn context(&self) -> Result<Context, NnError> {
        Ok(Context(sys::init_execution_context(self.0)?))
    }
}

/// The inputs and outputs of a model.
#[derive(Debug, PartialEq, Eq)]
pub struct Context(u32);

impl Context {
    /// Sets an input, which is copied: a tensor of shape `dims`, row-major. Setting it again replaces it.
    pub fn set_input<T: Element>(&mut self, index: u32, dims: &[u32], data: &[T]) -> Result<(), NnError> {
        self.set_input_bytes(index, dims, T::TYPE, sys::bytes_of(data))
    }

    /// Sets an input whose elements are bytes already, little-endian.
    pub fn set_input_bytes(&mut self, index: u32, dims: &[u32], kind: TensorType, data: &[u8]) -> Result<(), NnError> {
        Ok(sys::set_input(self.0, index, dims, kind as u8, data)?)
    }

    /// Runs the model. Its time counts against the policy's `max_time` and the request's deadline.
    pub fn compute(&mut self) -> Result<(), NnError> {
        Ok(sys::compute(self.0)?)
    }

    /// An output in whole, row-major, in a buffer that grows as needed. wasi-nn does not say its type: `T` must be it.
    pub fn get_output<T: Element>(&self, index: u32) -> Result<Vec<T>, NnError> {
        read_growing(|buffer| sys::get_output(self.0, index, buffer))
    }

    /// Copies an output to the front of `buffer` and says how many elements it has.
    pub fn get_output_into<T: Element>(&self, index: u32, buffer: &mut [T]) -> Result<usize, NnError> {
        match sys::get_output(self.0, index, sys::bytes_of_mut(buffer)) {
            (0, bytes) => whole::<T>(bytes),
            (errno, _) => Err(errno.into()),
        }
    }
}

/// Reads until the buffer is large enough: as large as the host says, or twice as large where it does not say.
fn read_growing<T: Element>(mut read: impl FnMut(&mut [u8]) -> (u32, usize)) -> Result<Vec<T>, NnError> {
    let mut size = OUTPUT_START;
    loop {
        let mut output = vec![T::default(); size.div_ceil(size_of::<T>())];
        match read(sys::bytes_of_mut(&mut output)) {
            (0, bytes) => {
                output.truncate(whole::<T>(bytes)?);
                return Ok(output);
            }
            (7, needed) => size = if needed > size { needed } else { 2 * size },
            (errno, _) => return Err(errno.into()),
        }
        if size > OUTPUT_MAX {
            return Err(NnError::TooLarge);
        }
    }
}

fn whole<T>(bytes: usize) -> Result<usize, NnError> {
    let element = size_of::<T>();
    if bytes % element == 0 { Ok(bytes / element) } else { Err(NnError::Misfit { bytes, element }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An output of `bytes`, as a host gives it that says (or does not say) how much room it needs.
    fn host(bytes: &[u8], says: bool) -> impl FnMut(&mut [u8]) -> (u32, usize) {
        move |buffer| {
            if buffer.len() < bytes.len() {
                return (7, if says { bytes.len() } else { 0 });
            }
            buffer[..bytes.len()].copy_from_slice(bytes);
            (0, bytes.len())
        }
    }

    #[test]
    fn an_output_of_any_size_is_read_whole() {
        for count in [0, 1, 1023, 1024, 1025, 5000, 100_000] {
            let values: Vec<i32> = (0..count).collect();
            for says in [true, false] {
                assert_eq!(read_growing::<i32>(host(sys::bytes_of(&values), says)), Ok(values.clone()));
            }
        }
    }

    #[test]
    fn an_output_of_another_type_is_told_apart_where_it_can_be() {
        let misfit = NnError::Misfit { bytes: 12, element: 8 };
        assert_eq!(read_growing::<f64>(host(&[0; 12], true)), Err(misfit));
    }

    #[test]
    fn a_host_that_always_wants_more_is_given_up_on() {
        assert_eq!(read_growing::<u8>(|_| (7, usize::MAX)), Err(NnError::TooLarge));
    }

    #[test]
    fn an_errno_ends_the_reading() {
        assert_eq!(read_growing::<u8>(|_| (5, 0)), Err(NnError::RuntimeError));
    }

    #[test]
    fn natively_every_call_is_unsupported() {
        assert_eq!(Graph::load_by_name("digits"), Err(NnError::UnsupportedOperation));
        assert_eq!(Context(0).set_input(0, &[1], &[1.0_f32]), Err(NnError::UnsupportedOperation));
        assert_eq!(Context(0).get_output::<F16>(0), Err(NnError::UnsupportedOperation));
    }

    #[test]
    fn bytes_are_little_endian() {
        assert_eq!(sys::bytes_of(&[F16(0x3c00), F16(1)]), [0x00, 0x3c, 0x01, 0x00]);
        assert_eq!(sys::bytes_of(&[1_i64]), [1, 0, 0, 0, 0, 0, 0, 0]);
    }
}
