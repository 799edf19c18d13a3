//! Runs any model that its policy grants on the raw bytes of the body, so that tests choose model, type and shape.
//!
//! `POST /?graph=identity_f16&type=f16&dims=3`, and optionally
//! - `inputs=2`: the body is cut into that many equal inputs of the same type and shape (default 1);
//! - `output=1`: which output is answered (default 0);
//! - `times=3`: `compute` that often (default 1);
//! - `inline=1`: the body is the model (`load`), and the input is zeros of the type and shape.
//!
//! Answers 200 with the output's bytes, 400 for a bad query, and 502 with the call and what wasi-nn said otherwise.

use wisp_guest::nn::{Encoding, Graph, NnError, Target, TensorType};
use wisp_guest::{Request, Response, serve};

fn infer(request: Request) -> Result<Response, Response> {
    let number = |name: &str, default: u32| match request.query_param(name) {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| bad(name)),
    };
    let kind = kind(&request.query_param("type").unwrap_or_default()).ok_or_else(|| bad("type"))?;
    let dims = dims(&request.query_param("dims").unwrap_or_default()).ok_or_else(|| bad("dims"))?;
    let inputs = number("inputs", 1)?.max(1);
    let inline = number("inline", 0)? == 1;

    let zeros = vec![
        0;
        if inline {
            element_bytes(kind) * dims.iter().product::<u32>() as usize
        } else {
            0
        }
    ];
    let data = if inline { &zeros } else { request.body() };
    let graph = if inline {
        Graph::load(request.body(), Encoding::Onnx, Target::Cpu)
            .map_err(|error| refused("load", error))?
    } else {
        let name = request.query_param("graph").unwrap_or_default();
        Graph::load_by_name(&name).map_err(|error| refused("load_by_name", error))?
    };
    let mut context = graph
        .context()
        .map_err(|error| refused("init_execution_context", error))?;
    let part = data.len() / inputs as usize;
    for index in 0..inputs {
        let input = &data[part * index as usize..part * (index as usize + 1)];
        context
            .set_input_bytes(index, &dims, kind, input)
            .map_err(|error| refused("set_input", error))?;
    }
    for _ in 0..number("times", 1)? {
        context
            .compute()
            .map_err(|error| refused("compute", error))?;
    }
    let output: Vec<u8> = context
        .get_output(number("output", 0)?)
        .map_err(|error| refused("get_output", error))?;
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

fn element_bytes(kind: TensorType) -> usize {
    match kind {
        TensorType::U8 => 1,
        TensorType::F16 => 2,
        TensorType::F32 | TensorType::I32 => 4,
        TensorType::F64 | TensorType::I64 => 8,
    }
}

fn dims(text: &str) -> Option<Vec<u32>> {
    text.split(',')
        .filter(|dim| !dim.is_empty())
        .map(|dim| dim.parse().ok())
        .collect()
}

fn bad(name: &str) -> Response {
    Response::text("query: ".to_owned() + name + "\n").with_status(400)
}

fn refused(call: &str, error: NnError) -> Response {
    Response::text(format!("{call}: {error:?}\n")).with_status(502)
}

serve!(infer);
