//! As `nncrate`, on the crate's release 0.5, whose numbers for u8 (2) and i32 (3) were given to f64 and u8 later: guests
//! of both kinds are about, and nothing in a module tells them apart.
//!
//! `POST /?graph=identity_u8&type=u8&dims=3`: one input, the first output. Answers 200 with the output's bytes, 400 for a
//! bad query, and 502 with what the crate said otherwise.
#![cfg(target_family = "wasm")]

use wasi_nn::{Error, ExecutionTarget, GraphBuilder, GraphEncoding, TensorType};
use wisp_guest::{Request, Response, serve};

const OUTPUT_MAX: usize = 65536;

fn answer(request: Request) -> Response {
    let Some((kind, dims)) = tensor(&request) else {
        return Response::text("query: type or dims\n").with_status(400);
    };
    let name = request.query_param("graph").unwrap_or_default();
    match infer(&name, kind, &dims, request.body()) {
        Ok(output) => Response::new(200)
            .with_header("content-type", "application/octet-stream")
            .with_body(output),
        Err(error) => Response::text(format!("{error:?}\n")).with_status(502),
    }
}

fn infer(name: &str, kind: TensorType, dims: &[usize], input: &[u8]) -> Result<Vec<u8>, Error> {
    let graph =
        GraphBuilder::new(GraphEncoding::Onnx, ExecutionTarget::CPU).build_from_cache(name)?;
    let mut context = graph.init_execution_context()?;
    context.set_input(0, kind, dims, input)?;
    context.compute()?;
    let mut output = vec![0; OUTPUT_MAX];
    let bytes = context.get_output(0, &mut output)?;
    output.truncate(bytes);
    Ok(output)
}

fn tensor(request: &Request) -> Option<(TensorType, Vec<usize>)> {
    let kind = match request.query_param("type")?.as_str() {
        "f16" => TensorType::F16,
        "f32" => TensorType::F32,
        "u8" => TensorType::U8,
        "i32" => TensorType::I32,
        _ => return None,
    };
    let dims = request
        .query_param("dims")?
        .split(',')
        .map(|dim| dim.parse().ok())
        .collect::<Option<_>>()?;
    Some((kind, dims))
}

serve!(answer);
