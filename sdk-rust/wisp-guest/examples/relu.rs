//! Runs the model that the policy calls `relu` on the body's six comma-separated numbers.

use wisp_guest::nn::Graph;
use wisp_guest::{Request, Response, serve};

fn relu(request: Request) -> Result<Response, Response> {
    let numbers = parse(request.body()).ok_or_else(|| Response::text("six numbers, please\n").with_status(400))?;
    let mut context = Graph::load_by_name("relu")?.context()?;
    context.set_input(0, &[2, 3], &numbers)?;
    context.compute()?;
    let output: Vec<f32> = context.get_output(0)?;
    Ok(Response::json(format!("{output:?}\n")))
}

fn parse(body: &[u8]) -> Option<Vec<f32>> {
    let text = std::str::from_utf8(body).ok()?;
    let numbers: Vec<f32> = text.split(',').map(|number| number.trim().parse()).collect::<Result<_, _>>().ok()?;
    (numbers.len() == 6).then_some(numbers)
}

serve!(relu);
