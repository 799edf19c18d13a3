//! Where the guest touches the machine: the exports that the platform calls, the imports of wasi-nn and of the platform's own, and the views of
//! numbers as bytes. All `unsafe` of the SDK is in this file; guests need none of their own.
#![allow(unsafe_code)]

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::exchange::{Request, Response};

/// Exports a handler as a wisp function: `_initialize`, `wisp_alloc` and `wisp_handle`.
///
/// The handler is any `fn(Request) -> R` where `R` becomes a [`Response`](crate::Response): a response itself, or a
/// `Result` whose error becomes one. Natively the macro only checks the handler's type.
#[macro_export]
macro_rules! serve {
    ($handler:path) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            #[allow(unsafe_code)]
            #[unsafe(no_mangle)]
            extern "C" fn _initialize() {
                $crate::sys::initialize()
            }

            #[allow(unsafe_code)]
            #[unsafe(no_mangle)]
            extern "C" fn wisp_alloc(len: i32) -> i32 {
                $crate::sys::alloc(len)
            }

            #[allow(unsafe_code)]
            #[unsafe(no_mangle)]
            extern "C" fn wisp_handle(ptr: i32, len: i32) -> i64 {
                $crate::sys::handle(ptr, len, $handler)
            }
        };

        #[cfg(not(target_family = "wasm"))]
        const _: fn($crate::Request) -> $crate::Response = |request| ::core::convert::Into::into($handler(request));
    };
}

/// Runs the C library's constructors, once per instance. A `cdylib` for `wasm32-wasip1` is linked without a reactor's
/// start code; while nothing mentions the constructors, the linker makes every export run them on each call.
#[cfg(target_family = "wasm")]
pub fn initialize() {
    unsafe extern "C" {
        fn __wasm_call_ctors();
    }
    // SAFETY: the linker makes this function, and the platform calls `_initialize` once, before any other export.
    unsafe { __wasm_call_ctors() }
}

/// The message that the platform writes, then the one that it reads. They stay here while the platform holds their
/// address, so that no pointer that comes in is ever followed.
static MESSAGE: Mutex<Vec<u8>> = Mutex::new(Vec::new());

fn message() -> MutexGuard<'static, Vec<u8>> {
    MESSAGE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes room for a request and says where. A request that does not fit in memory traps.
pub fn alloc(len: i32) -> i32 {
    let mut message = message();
    *message = Vec::with_capacity(len as u32 as usize);
    address(&message) as i32
}

/// Decodes the request that was written where [`alloc`] said, answers it, and gives `ptr << 32 | len` of the response.
///
/// # Panics
/// (a trap, in a guest) when the pointer and length are not those of [`alloc`], or the message is malformed: the
/// platform has broken the ABI, and no answer could be trusted.
pub fn handle<R: Into<Response>>(ptr: i32, len: i32, handler: impl FnOnce(Request) -> R) -> i64 {
    let request = take_request(ptr, len);
    let response = handler(request).into().encode();
    let answer = u64::from(address(&response)) << 32 | response.len() as u64;
    *message() = response;
    answer as i64
}

/// The panics name no values: formatting them would be a tenth of a small guest.
fn take_request(ptr: i32, len: i32) -> Request {
    let mut bytes = std::mem::take(&mut *message());
    let len = len as u32 as usize;
    if ptr as u32 != address(&bytes) || len > bytes.capacity() {
        panic!("wisp_handle: not the buffer of wisp_alloc");
    }
    // SAFETY: so many bytes were allocated, and the platform has written all of them: to fill them with zeros first would
    // be to write a large request twice.
    unsafe { bytes.set_len(len) };
    match Request::decode_owned(bytes) {
        Ok(request) => request,
        Err(_) => panic!("wisp_handle: not a request of exchange version 1"),
    }
}

/// Where a buffer lies. In a guest an address has 32 bits; natively nobody follows the rest.
fn address(bytes: &[u8]) -> u32 {
    bytes.as_ptr() as usize as u32
}

/// Numbers without padding, any bit pattern of which is a value.
///
/// # Safety
/// Implement it for such types only.
pub unsafe trait Plain: Copy + Default {}

// SAFETY: the primitive number types have neither padding nor invalid values.
unsafe impl Plain for u8 {}
unsafe impl Plain for i32 {}
unsafe impl Plain for i64 {}
unsafe impl Plain for f32 {}
unsafe impl Plain for f64 {}
// SAFETY: a transparent u16.
unsafe impl Plain for crate::nn::F16 {}

/// The bytes of a slice of numbers, in memory order: little-endian in a guest.
pub fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: the view covers exactly the slice, u8 needs no alignment, and `Plain` rules out padding.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The bytes of a slice of numbers, to be written.
pub fn bytes_of_mut<T: Plain>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: as in `bytes_of`; every bit pattern written is a `T`, as `Plain` promises.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

/// A tensor as `set_input` takes it (20 bytes, aligned to 4). `kind` is one byte and three of padding to the
/// platform; some hosts read all four, so it is written as a word.
#[repr(C)]
struct TensorRecord {
    dims_ptr: *const u32,
    dims_len: usize,
    kind: u32,
    data_ptr: *const u8,
    data_len: usize,
}

#[cfg(target_family = "wasm")]
const _: () = assert!(size_of::<TensorRecord>() == 20 && size_of::<GraphBuilder>() == 8);

/// One part of a model's bytes, as `load` takes it.
#[repr(C)]
struct GraphBuilder {
    ptr: *const u8,
    len: usize,
}

#[cfg(target_family = "wasm")]
mod ephemeral {
    use super::{GraphBuilder, TensorRecord};

    #[link(wasm_import_module = "wasi_ephemeral_nn")]
    unsafe extern "C" {
        pub fn load(builders: *const GraphBuilder, count: usize, encoding: u32, target: u32, graph: *mut u32) -> u32;
        pub fn load_by_name(name: *const u8, len: usize, graph: *mut u32) -> u32;
        pub fn init_execution_context(graph: u32, context: *mut u32) -> u32;
        pub fn set_input(context: u32, index: u32, tensor: *const TensorRecord) -> u32;
        pub fn compute(context: u32) -> u32;
        pub fn get_output(context: u32, index: u32, buffer: *mut u8, size: usize, written: *mut u32) -> u32;
    }
}

/// Natively there is no wasi-nn: every call answers 6, unsupported operation.
#[cfg(not(target_family = "wasm"))]
#[allow(clippy::missing_safety_doc)]
mod ephemeral {
    use super::{GraphBuilder, TensorRecord};

    pub unsafe fn load(_: *const GraphBuilder, _: usize, _: u32, _: u32, _: *mut u32) -> u32 {
        6
    }
    pub unsafe fn load_by_name(_: *const u8, _: usize, _: *mut u32) -> u32 {
        6
    }
    pub unsafe fn init_execution_context(_: u32, _: *mut u32) -> u32 {
        6
    }
    pub unsafe fn set_input(_: u32, _: u32, _: *const TensorRecord) -> u32 {
        6
    }
    pub unsafe fn compute(_: u32) -> u32 {
        6
    }
    pub unsafe fn get_output(_: u32, _: u32, _: *mut u8, _: usize, _: *mut u32) -> u32 {
        6
    }
}

/// `load` with one builder: the graph's handle, or the errno.
pub fn load(model: &[u8], encoding: u32, target: u32) -> Result<u32, u32> {
    let builder = GraphBuilder { ptr: model.as_ptr(), len: model.len() };
    let mut graph = 0;
    // SAFETY: the record and what it points at outlive the call, and `graph` is a u32 to write.
    done(unsafe { ephemeral::load(&builder, 1, encoding, target, &mut graph) }).map(|()| graph)
}

/// `load_by_name`: the graph's handle, or the errno.
pub fn load_by_name(name: &str) -> Result<u32, u32> {
    let mut graph = 0;
    // SAFETY: pointer and length are those of `name`, and `graph` is a u32 to write.
    done(unsafe { ephemeral::load_by_name(name.as_ptr(), name.len(), &mut graph) }).map(|()| graph)
}

/// `init_execution_context`: the context's handle, or the errno.
pub fn init_execution_context(graph: u32) -> Result<u32, u32> {
    let mut context = 0;
    // SAFETY: `context` is a u32 to write.
    done(unsafe { ephemeral::init_execution_context(graph, &mut context) }).map(|()| context)
}

/// `set_input`: the platform copies the data before it returns.
pub fn set_input(context: u32, index: u32, dims: &[u32], kind: u8, data: &[u8]) -> Result<(), u32> {
    let tensor = TensorRecord {
        dims_ptr: dims.as_ptr(),
        dims_len: dims.len(),
        kind: kind.into(),
        data_ptr: data.as_ptr(),
        data_len: data.len(),
    };
    // SAFETY: the record and the two slices it points at outlive the call.
    done(unsafe { ephemeral::set_input(context, index, &tensor) })
}

/// `compute`: runs the model on the inputs set.
pub fn compute(context: u32) -> Result<(), u32> {
    // SAFETY: no pointers.
    done(unsafe { ephemeral::compute(context) })
}

/// `get_output`: the errno, and the number of bytes written, or needed (0 from a host that does not say).
pub fn get_output(context: u32, index: u32, buffer: &mut [u8]) -> (u32, usize) {
    let mut written = 0;
    // SAFETY: pointer and length are those of `buffer`, and `written` is a u32 to write.
    let errno = unsafe { ephemeral::get_output(context, index, buffer.as_mut_ptr(), buffer.len(), &mut written) };
    (errno, written as usize)
}

#[cfg(target_family = "wasm")]
mod own {
    #[link(wasm_import_module = "wisp")]
    unsafe extern "C" {
        pub fn http_send(request: *const u8, len: usize, response: *mut u32) -> u32;
        pub fn http_response_size(response: u32, size: *mut u32) -> u32;
        pub fn http_response_read(response: u32, buffer: *mut u8, room: usize) -> u32;
    }
}

/// Natively nobody makes requests: every call answers 4, unreachable.
#[cfg(not(target_family = "wasm"))]
#[allow(clippy::missing_safety_doc)]
mod own {
    pub unsafe fn http_send(_: *const u8, _: usize, _: *mut u32) -> u32 {
        4
    }
    pub unsafe fn http_response_size(_: u32, _: *mut u32) -> u32 {
        4
    }
    pub unsafe fn http_response_read(_: u32, _: *mut u8, _: usize) -> u32 {
        4
    }
}

/// One outbound request: the encoded answer, or the errno.
pub fn http_exchange(request: &[u8]) -> Result<Vec<u8>, u32> {
    let (mut response, mut size) = (0, 0);
    // SAFETY: pointer and length are those of `request`, and `response` is a u32 to write.
    done(unsafe { own::http_send(request.as_ptr(), request.len(), &mut response) })?;
    // SAFETY: `size` is a u32 to write.
    done(unsafe { own::http_response_size(response, &mut size) })?;
    let mut answer = vec![0; size as usize];
    // SAFETY: pointer and length are those of `answer`.
    done(unsafe { own::http_response_read(response, answer.as_mut_ptr(), answer.len()) })?;
    Ok(answer)
}

fn done(errno: u32) -> Result<(), u32> {
    match errno {
        0 => Ok(()),
        refused => Err(refused),
    }
}
