//! What a body is: by its media type, or by how it begins where that says nothing.

/// A kind of body that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Pixels in JSON.
    Json,
    /// A PNG file.
    Png,
    /// A JPEG file.
    Jpeg,
    /// A Windows bitmap.
    Bmp,
}

impl Kind {
    /// The media type is believed if it is one of these four; `application/octet-stream` is as good as none.
    pub fn of(content_type: Option<&str>, body: &[u8]) -> Result<Self, String> {
        let media_type = content_type.map(|text| {
            text.split(';')
                .next()
                .unwrap_or(text)
                .trim()
                .to_ascii_lowercase()
        });
        match media_type.as_deref() {
            Some("application/json") => Ok(Self::Json),
            Some("image/png") => Ok(Self::Png),
            Some("image/jpeg") => Ok(Self::Jpeg),
            Some("image/bmp") => Ok(Self::Bmp),
            None | Some("" | "application/octet-stream") => Self::by_its_first_bytes(body),
            Some(_) => {
                Err("the content type must be application/json, image/png, image/jpeg or image/bmp, or be left out"
                    .into())
            }
        }
    }

    fn by_its_first_bytes(body: &[u8]) -> Result<Self, String> {
        match body.trim_ascii_start() {
            _ if body.starts_with(b"\x89PNG\r\n\x1a\n") => Ok(Self::Png),
            _ if body.starts_with(b"\xff\xd8\xff") => Ok(Self::Jpeg),
            _ if body.starts_with(b"BM") => Ok(Self::Bmp),
            [b'{', ..] => Ok(Self::Json),
            _ => Err("the body begins like none of JSON, PNG, JPEG and BMP".into()),
        }
    }

    /// As it stands in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "rgba",
            Self::Png => "png",
            Self::Jpeg => "jpeg",
            Self::Bmp => "bmp",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_media_type_is_believed_whatever_its_case_and_parameters() {
        assert_eq!(Kind::of(Some("image/png"), b"BM"), Ok(Kind::Png));
        assert_eq!(Kind::of(Some("Image/JPEG"), b""), Ok(Kind::Jpeg));
        assert_eq!(
            Kind::of(Some("application/json ; charset=utf-8"), b""),
            Ok(Kind::Json)
        );
        assert_eq!(Kind::of(Some("image/bmp"), b"{"), Ok(Kind::Bmp));
        for other in [
            "image/gif",
            "text/plain",
            "application/x-www-form-urlencoded",
            "png",
            "image/png, image/png",
        ] {
            assert!(
                Kind::of(Some(other), b"\x89PNG\r\n\x1a\n").is_err(),
                "{other}"
            );
        }
    }

    #[test]
    fn without_one_the_first_bytes_tell() {
        for content_type in [None, Some(""), Some("application/octet-stream")] {
            assert_eq!(Kind::of(content_type, b"\x89PNG\r\n\x1a\n"), Ok(Kind::Png));
            assert_eq!(Kind::of(content_type, b"\xff\xd8\xff\xe0"), Ok(Kind::Jpeg));
            assert_eq!(Kind::of(content_type, b"BM"), Ok(Kind::Bmp));
            assert_eq!(Kind::of(content_type, b" \n{"), Ok(Kind::Json));
            assert!(Kind::of(content_type, b"GIF89a").is_err());
            assert!(Kind::of(content_type, b"").is_err());
        }
    }
}
