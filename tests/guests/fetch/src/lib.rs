//! Fetches what the query names: `POST /?url=http://127.0.0.1:8000/x&method=PUT&times=2`, with the caller's body and its
//! `x-*` headers. Answers as the host did, with `fetched` telling how many requests were answered, or 502 with the error.

use wisp_guest::http::fetch;
use wisp_guest::{Request, Response, serve};

fn relay(request: Request) -> Response {
    let param = |name: &str| request.query_param(name);
    let times = param("times").and_then(|text| text.parse().ok()).unwrap_or(1u32);
    let mut last = Response::new(204);
    for count in 0..times {
        let mut out = Request::new(param("method").unwrap_or_else(|| "GET".into()), param("url").unwrap_or_default())
            .with_body(request.body());
        for (name, value) in request.headers() {
            if let Some(name) = name.strip_prefix("x-out-") {
                out = out.with_header(name, value);
            }
        }
        match fetch(out) {
            Ok(response) => last = response,
            Err(error) => {
                return Response::text(format!("{error:?} after {count}")).with_status(502);
            }
        }
    }
    last.with_header("fetched", times.to_string())
}

serve!(relay);
