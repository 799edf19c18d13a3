//! The message format: *exchange* messages, read with bounds checks and written.
//!
//! Integers are u32, little-endian; a string is its length and that many bytes of UTF-8. A request is the version (1),
//! method, path, query, the number of headers, that many (name, value), and the body to the end. A response is the
//! version, the status, the headers in the same way, and the body to the end.

use std::fmt;

/// The only version of the message format.
pub const VERSION: u32 = 1;

/// Why a message could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExchangeError {
    /// The first word is not [`VERSION`].
    Version(u32),
    /// Something that was announced lies past the end of the message.
    Truncated {
        /// How many bytes had to follow.
        needed: usize,
        /// How many did.
        left: usize,
    },
    /// A method, path, query, header name or header value is not UTF-8.
    NotUtf8,
    /// A response's status is not 200 to 599.
    Status(u32),
    /// A response's header name is not a lower-case token (RFC 9110, section 5.6.2).
    HeaderName(String),
    /// The value of the response's header named here holds a control character.
    HeaderValue(String),
}

impl fmt::Display for ExchangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(found) => write!(f, "exchange version {found}, not {VERSION}"),
            Self::Truncated { needed, left } => write!(f, "{needed} bytes announced, {left} left"),
            Self::NotUtf8 => f.write_str("a string is not UTF-8"),
            Self::Status(found) => write!(f, "status {found} is not 200 to 599"),
            Self::HeaderName(name) => write!(f, "{name:?} is not a lower-case header name"),
            Self::HeaderValue(name) => write!(f, "control character in the value of {name:?}"),
        }
    }
}

impl std::error::Error for ExchangeError {}

/// A name in lower case and a value; a repeated header is two of them.
pub type Header = (String, String);

/// A body that may lie at the end of the message that brought it: a large one is not copied out.
#[derive(Clone, Default)]
pub(crate) struct Body {
    message: Vec<u8>,
    start: usize,
}

impl Body {
    /// What follows the first `start` bytes of a message, which has as many.
    pub(crate) fn within(message: Vec<u8>, start: usize) -> Self {
        Self { message, start }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.message[self.start..]
    }

    pub(crate) fn into_bytes(mut self) -> Vec<u8> {
        self.message.drain(..self.start);
        self.message
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self::within(bytes, 0)
    }
}

impl PartialEq for Body {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Body {}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes().fmt(f)
    }
}

/// What has not been read of a message yet; every read is checked against it.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(message: &'a [u8]) -> Result<Self, ExchangeError> {
        let mut reader = Self { rest: message };
        match reader.word()? {
            VERSION => Ok(reader),
            found => Err(ExchangeError::Version(found)),
        }
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], ExchangeError> {
        let truncated = ExchangeError::Truncated { needed: count, left: self.rest.len() };
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn word(&mut self) -> Result<u32, ExchangeError> {
        let mut word = [0; 4];
        word.copy_from_slice(self.bytes(4)?);
        Ok(u32::from_le_bytes(word))
    }

    pub(crate) fn string(&mut self) -> Result<String, ExchangeError> {
        let length = self.word()? as usize;
        let bytes = self.bytes(length)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| ExchangeError::NotUtf8)
    }

    /// The list grows as headers are found: their announced number allocates nothing.
    pub(crate) fn headers(&mut self) -> Result<Vec<Header>, ExchangeError> {
        let mut headers = Vec::new();
        for _ in 0..self.word()? {
            headers.push((self.string()?, self.string()?));
        }
        Ok(headers)
    }

    /// How many bytes have not been read.
    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn body(self) -> Vec<u8> {
        self.rest.to_vec()
    }
}

/// A message being written.
pub(crate) struct Writer {
    message: Vec<u8>,
}

impl Writer {
    /// `body_len` is a hint, so that a large body is copied once.
    pub(crate) fn new(body_len: usize) -> Self {
        let mut writer = Self { message: Vec::with_capacity(128 + body_len) };
        writer.word(VERSION as usize);
        writer
    }

    /// On wasm32 nothing in memory is longer than a u32 can say.
    pub(crate) fn word(&mut self, value: usize) {
        self.message.extend_from_slice(&(value as u32).to_le_bytes());
    }

    pub(crate) fn string(&mut self, text: &str) {
        self.word(text.len());
        self.message.extend_from_slice(text.as_bytes());
    }

    pub(crate) fn headers(&mut self, headers: &[Header]) {
        self.word(headers.len());
        for (name, value) in headers {
            self.string(name);
            self.string(value);
        }
    }

    pub(crate) fn body(mut self, body: &[u8]) -> Vec<u8> {
        self.message.extend_from_slice(body);
        self.message
    }
}

/// Whether a response may carry this header: what the platform checks before it answers.
pub(crate) fn check_header((name, value): &Header) -> Result<(), ExchangeError> {
    if name.is_empty() || !name.bytes().all(is_lower_case_token) {
        return Err(ExchangeError::HeaderName(name.clone()));
    }
    if value.bytes().any(|byte| byte != b'\t' && byte.is_ascii_control()) {
        return Err(ExchangeError::HeaderValue(name.clone()));
    }
    Ok(())
}

fn is_lower_case_token(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9') || b"!#$%&'*+-.^_`|~".contains(&byte)
}
