//! Greets whom the query names: `GET /t/acme/hello?name=ada` answers `hello, ada`.

use std::env;

use wisp_guest::{Request, Response, serve};

fn hello(request: Request) -> Response {
    let greeting = env::var("GREETING").unwrap_or_else(|_| "hello".into());
    let name = request
        .query_param("name")
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "world".into());
    Response::text(greeting + ", " + &name + "\n")
}

serve!(hello);

#[cfg(test)]
mod tests {
    use super::*;

    fn said(query: &str) -> Vec<u8> {
        hello(Request::new("GET", "/").with_query(query))
            .body()
            .to_vec()
    }

    #[test]
    fn greets_the_name_or_the_world() {
        assert_eq!(said(""), b"hello, world\n");
        assert_eq!(said("name="), b"hello, world\n");
        assert_eq!(
            said("name=Gr%C3%A9ta+%26+Al"),
            "hello, Gr\u{e9}ta & Al\n".as_bytes()
        );
    }
}
