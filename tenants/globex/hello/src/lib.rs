//! Globex's hello: the same function name as acme's, another tenant, another answer.

use wisp_guest::{Request, Response, serve};

fn hello(request: Request) -> Response {
    let text = match request.path() {
        "/" => "Welcome to Globex.\n".into(),
        room => "Welcome to Globex, room ".to_owned() + room.trim_start_matches('/') + ".\n",
    };
    Response::text(text).with_header("x-tenant", "globex")
}

serve!(hello);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn welcomes_to_the_room_in_the_path() {
        assert_eq!(
            hello(Request::new("GET", "/")).body(),
            b"Welcome to Globex.\n"
        );
        assert_eq!(
            hello(Request::new("GET", "/12")).body(),
            b"Welcome to Globex, room 12.\n"
        );
    }
}
