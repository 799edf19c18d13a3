//! One request and one response, as the platform and a guest pass them: see [`Request::decode`] and
//! [`Response::encode`] for the message, of which a function sees nothing.

use crate::codec::{Body, Reader, Writer, check_header};
pub use crate::codec::{ExchangeError, Header, VERSION};
use crate::nn::NnError;
use crate::query;

/// What the caller sent, without hop-by-hop headers, `authorization` and `wisp-*`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    method: String,
    path: String,
    query: String,
    headers: Vec<Header>,
    body: Body,
}

impl Request {
    /// A request without query, headers and body; for a handler's tests.
    pub fn new(method: impl Into<String>, path: impl Into<String>) -> Self {
        Self { method: method.into(), path: path.into(), ..Self::default() }
    }

    /// Sets the query, as it stands after the `?`.
    pub fn with_query(mut self, query: impl Into<String>) -> Self {
        self.query = query.into();
        self
    }

    /// Adds a header; the name is put in lower case.
    pub fn with_header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_ascii_lowercase(), value.into()));
        self
    }

    /// Sets the body.
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Body::from(body.into());
        self
    }

    /// The method, as sent: `GET`, `POST` ...
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The path below the function, undecoded; `/` when empty.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The query, undecoded, without the `?`; may be empty.
    pub fn query(&self) -> &str {
        &self.query
    }

    /// The first value of a query parameter, decoded (`+` and `%20` are spaces; bytes that are not UTF-8 become U+FFFD).
    pub fn query_param(&self, name: &str) -> Option<String> {
        query::pairs(&self.query).find_map(|(key, value)| (key == name).then_some(value))
    }

    /// All headers in order.
    pub fn headers(&self) -> &[Header] {
        &self.headers
    }

    /// The first value of a header, whatever the case of `name`.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.header_values(name).next()
    }

    /// Every value of a header, in order, whatever the case of `name`.
    pub fn header_values<'h>(&'h self, name: &str) -> impl Iterator<Item = &'h str> {
        values(&self.headers, name)
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        self.body.bytes()
    }

    /// The body, in the memory in which it came.
    pub fn into_body(self) -> Vec<u8> {
        self.body.into_bytes()
    }

    /// Reads a message. The grammar of headers is not checked: the platform has parsed them as HTTP.
    pub fn decode(message: &[u8]) -> Result<Self, ExchangeError> {
        Self::decode_owned(message.to_vec())
    }

    /// As `decode`; the body stays where it lies.
    pub(crate) fn decode_owned(message: Vec<u8>) -> Result<Self, ExchangeError> {
        let mut reader = Reader::new(&message)?;
        let (method, path, query) = (reader.string()?, reader.string()?, reader.string()?);
        let headers = reader.headers()?;
        let start = message.len() - reader.left();
        Ok(Self { method, path, query, headers, body: Body::within(message, start) })
    }

    /// Writes the message that [`Request::decode`] reads.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new(self.body().len());
        for text in [&self.method, &self.path, &self.query] {
            writer.string(text);
        }
        writer.headers(&self.headers);
        writer.body(self.body())
    }
}

/// What a guest answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    status: u16,
    headers: Vec<Header>,
    body: Vec<u8>,
}

impl Response {
    /// An answer with a status (200 to 599), no headers and no body.
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// 200 with `text/plain`.
    pub fn text(body: impl Into<String>) -> Self {
        Self::new(200).with_header("content-type", "text/plain; charset=utf-8").with_body(body.into())
    }

    /// 200 with `application/json`; `body` is JSON already.
    pub fn json(body: impl Into<String>) -> Self {
        Self::new(200).with_header("content-type", "application/json").with_body(body.into())
    }

    /// Sets the status.
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// Adds a header; the name is put in lower case. The platform refuses an answer whose header holds a line break.
    pub fn with_header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_ascii_lowercase(), value.into()));
        self
    }

    /// Sets the body.
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// All headers in order.
    pub fn headers(&self) -> &[Header] {
        &self.headers
    }

    /// The first value of a header, whatever the case of `name`.
    pub fn header(&self, name: &str) -> Option<&str> {
        values(&self.headers, name).next()
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Reads a message as strictly as the platform does.
    pub fn decode(message: &[u8]) -> Result<Self, ExchangeError> {
        let mut reader = Reader::new(message)?;
        let status = reader.word()?;
        if !(200..=599).contains(&status) {
            return Err(ExchangeError::Status(status));
        }
        let headers = reader.headers()?;
        headers.iter().try_for_each(check_header)?;
        Ok(Self { status: status as u16, headers, body: reader.body() })
    }

    /// Writes the message that the platform reads.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new(self.body.len());
        writer.word(self.status as usize);
        writer.headers(&self.headers);
        writer.body(&self.body)
    }
}

/// `?` in a handler: an error that is a response already, or becomes one.
impl<E: Into<Response>> From<Result<Response, E>> for Response {
    fn from(result: Result<Response, E>) -> Self {
        result.unwrap_or_else(Into::into)
    }
}

/// A refused model is the function's own fault, not the caller's: 500, and the reason in the log only.
impl From<NnError> for Response {
    fn from(error: NnError) -> Self {
        eprintln!("wasi-nn: {error}");
        Self::new(500)
    }
}

fn values<'h>(headers: &'h [Header], name: &str) -> impl Iterator<Item = &'h str> {
    headers.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}
