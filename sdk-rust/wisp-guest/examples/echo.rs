//! Answers with what it was asked.

use wisp_guest::{Request, Response, serve};

fn echo(request: Request) -> Response {
    eprintln!("{} {}?{}", request.method(), request.path(), request.query()); // goes to the function's log
    let kind = request.header("content-type").unwrap_or("application/octet-stream").to_owned();
    Response::new(200).with_header("content-type", kind).with_body(request.into_body())
}

serve!(echo);
