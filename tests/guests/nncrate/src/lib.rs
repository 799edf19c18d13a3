//! As `infer`, but what it knows of wasi-nn is the published crate alone: functions that were written for other hosts
//! must run here as they are.
//!
//! `POST /?graph=two_io&type=f32&dims=2,2&inputs=2&output=1&room=4096`: the body is cut into `inputs` equal inputs
//! (default 1), output number `output` (default 0) is read into a buffer of `room` bytes (default 65536).
//!
//! Answers 200 with the output's bytes, 400 for a bad query, and 502 with the call and what the crate said otherwise.

use wasi_nn::{ExecutionTarget, GraphBuilder, GraphEncoding, TensorType};
use wisp_guest::{Request, Response, serve};

fn infer(request: Request) -> Result<Response, Response> {
    let number = |name: &str, default: usize| match request.query_param(name) {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| bad(name)),
    };
    let kind = kind(&request.query_param("type").unwrap_or_default()).ok_or_else(|| bad("type"))?;
    let dims = dims(&request.query_param("dims").unwrap_or_default()).ok_or_else(|| bad("dims"))?;
    let inputs = number("inputs", 1)?.max(1);
    let mut output = vec![0_u8; number("room", 65536)?];

    let name = request.query_param("graph").unwrap_or_default();
    let graph = GraphBuilder::new(GraphEncoding::Onnx, ExecutionTarget::CPU)
        .build_from_cache(&name)
        .map_err(|error| refused("load_by_name", error))?;
    let mut context = graph
        .init_execution_context()
        .map_err(|error| refused("init_execution_context", error))?;
    let part = request.body().len() / inputs;
    for index in 0..inputs {
        let input = &request.body()[part * index..part * (index + 1)];
        context
            .set_input(index, kind, &dims, input)
            .map_err(|error| refused("set_input", error))?;
    }
    context
        .compute()
        .map_err(|error| refused("compute", error))?;
    let bytes = context
        .get_output(number("output", 0)?, &mut output)
        .map_err(|error| refused("get_output", error))?;
    output.truncate(bytes);
    Ok(Response::new(200)
        .with_header("content-type", "application/octet-stream")
        .with_body(output))
}

fn kind(name: &str) -> Option<TensorType> {
    Some(match name {
        "f16" => TensorType::F16,
        "f32" => TensorType::F32,
        "f64" => TensorType::F64,
        "u8" => TensorType::U8,
        "i32" => TensorType::I32,
        "i64" => TensorType::I64,
        _ => return None,
    })
}

fn dims(text: &str) -> Option<Vec<usize>> {
    text.split(',')
        .filter(|dim| !dim.is_empty())
        .map(|dim| dim.parse().ok())
        .collect()
}

fn bad(name: &str) -> Response {
    Response::text("query: ".to_owned() + name + "\n").with_status(400)
}

fn refused(call: &str, error: wasi_nn::Error) -> Response {
    Response::text(format!("{call}: {error:?}\n")).with_status(502)
}

serve!(infer);
