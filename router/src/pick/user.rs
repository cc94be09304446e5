//! Who asks: where a request says it, and how much of that is read.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderName};
use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A longer user key is not hashed: nobody's identity is this long, and hashing it is work that a
/// client can order for nothing.
const USER_KEY_BYTES_MAX: usize = 1024;
/// A longer token is not decoded, for the same reason.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Tokens have no padding; whoever pads them means the same.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Where a request's user key is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserKey {
    /// This header.
    Header(HeaderName),
    /// This cookie.
    Cookie(String),
    /// The client's address.
    Address,
    /// This claim of the bearer token, whose signature nobody checks here.
    Claim(String),
}

impl UserKey {
    /// The key of a request, if it has a usable one. What it is worth is for the user of the API to
    /// know; it is never logged.
    pub fn read<'request>(
        &self,
        headers: &'request HeaderMap,
        client: impl FnOnce() -> IpAddr,
    ) -> Option<Cow<'request, [u8]>> {
        let key = match self {
            Self::Header(_) | Self::Cookie(_) => Cow::Borrowed(self.said(headers)?),
            Self::Address => Cow::Owned(match client() {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            }),
            Self::Claim(name) => Cow::Owned(claim(name, headers)?),
        };
        (!key.is_empty() && key.len() <= USER_KEY_BYTES_MAX).then_some(key)
    }

    /// What the header or cookie says.
    fn said<'request>(&self, headers: &'request HeaderMap) -> Option<&'request [u8]> {
        match self {
            Self::Header(name) => Some(headers.get(name)?.as_bytes()),
            Self::Cookie(name) => headers
                .get_all(COOKIE)
                .iter()
                .flat_map(|value| value.as_bytes().split(|byte| *byte == b';'))
                .find_map(|pair| {
                    pair.trim_ascii()
                        .strip_prefix(name.as_bytes())?
                        .strip_prefix(b"=")
                }),
            Self::Address | Self::Claim(_) => None,
        }
    }
}

/// Who may ask for the canary whatever the split says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Testers {
    /// Where they say so: a header or a cookie.
    pub by: UserKey,
    /// What they must say.
    pub value: String,
}

impl Testers {
    /// Whether a request is of a tester.
    pub fn admit(&self, headers: &HeaderMap) -> bool {
        self.by.said(headers) == Some(self.value.as_bytes())
    }
}

/// A string or number among the claims of the bearer token, as text.
fn claim(name: &str, headers: &HeaderMap) -> Option<Vec<u8>> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(b"bearer ".len())?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") || token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    // Header, payload and signature; what has another number of parts is no signed token.
    let mut parts = token.trim_ascii().split(|byte| *byte == b'.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let payload = BASE64URL.decode(payload).ok()?;
    let found = serde_json::Deserializer::from_slice(&payload)
        .deserialize_map(Claim(name))
        .ok()??;
    let text = found.get();
    match text.bytes().next()? {
        b'"' => serde_json::from_str::<String>(text)
            .ok()
            .map(String::into_bytes),
        b'-' | b'0'..=b'9' => Some(text.as_bytes().to_vec()),
        _ => None,
    }
}

/// Finds one member of an object without keeping the others.
struct Claim<'name>(&'name str);

impl<'de> Visitor<'de> for Claim<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the claims of a token")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            if name == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn nobody() -> IpAddr {
        panic!("the address is not asked for")
    }

    fn read(key: &UserKey, headers: &HeaderMap) -> Option<String> {
        let key = key.read(headers, nobody)?;
        Some(String::from_utf8(key.into_owned()).unwrap())
    }

    fn token(claims: &str) -> HeaderMap {
        let payload = BASE64URL.encode(claims);
        bearer(&format!("Bearer eyJhbGciOiJub25lIn0.{payload}.c2ln"))
    }

    fn bearer(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn user_keys_are_read_from_header_and_cookie() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=1; uid=u7 ;b=2"));
        headers.append("x-user", HeaderValue::from_static("u8"));
        headers.append("x-empty", HeaderValue::from_static(""));
        headers.append("x-long", HeaderValue::from_str(&"u".repeat(2000)).unwrap());
        let header = |name| read(&UserKey::Header(HeaderName::from_static(name)), &headers);
        let cookie = |name: &str| read(&UserKey::Cookie(name.to_owned()), &headers);
        assert_eq!(cookie("uid").as_deref(), Some("u7"));
        assert_eq!(cookie("ui"), None);
        assert_eq!(header("x-user").as_deref(), Some("u8"));
        assert_eq!(header("x-empty"), None);
        assert_eq!(header("x-long"), None);
        assert_eq!(header("x-none"), None);
    }

    #[test]
    fn addresses_of_both_families_are_keys() {
        let key = |address: &str| {
            let client = || address.parse().unwrap();
            let none = HeaderMap::new();
            UserKey::Address.read(&none, client).map(Cow::into_owned)
        };
        assert_eq!(key("10.0.0.1"), Some(vec![10, 0, 0, 1]));
        assert_eq!(key("::1").map(|key| key.len()), Some(16));
        assert_ne!(key("10.0.0.1"), key("10.0.0.2"));
    }

    #[test]
    fn a_claim_is_a_string_or_a_number_of_the_bearer_token() {
        let sub = UserKey::Claim("sub".to_owned());
        for (claims, expected) in [
            (r#"{"iss":{"sub":"no"},"sub":"u7"}"#, Some("u7")),
            (r#"{"sub":"caf\u00e9"}"#, Some("café")),
            (
                r#"{"sub":12345678901234567890123}"#,
                Some("12345678901234567890123"),
            ),
            (r#"{"sub":-4.5}"#, Some("-4.5")),
            (r#"{"sub":""}"#, None),
            (r#"{"sub":null}"#, None),
            (r#"{"sub":true}"#, None),
            (r#"{"sub":["u7"]}"#, None),
            (r#"{"sub":{"a":1}}"#, None),
            (r#"{"other":"u7"}"#, None),
            (r#"["sub"]"#, None),
            (r#"{"sub":"u7""#, None),
            ("", None),
        ] {
            assert_eq!(read(&sub, &token(claims)).as_deref(), expected, "{claims}");
        }
        let long = format!(r#"{{"sub":"{}"}}"#, "u".repeat(2000));
        assert_eq!(read(&sub, &token(&long)), None);
        // No recursion, however deep others are.
        let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
        let beside = format!(r#"{{"a":{deep},"sub":"u"}}"#);
        assert_eq!(read(&sub, &token(&beside)).as_deref(), Some("u"));
        assert_eq!(read(&sub, &token(&format!(r#"{{"sub":{deep}}}"#))), None);
    }

    #[test]
    fn what_is_no_token_has_no_claims() {
        let sub = UserKey::Claim("sub".to_owned());
        let payload = BASE64URL.encode(r#"{"sub":"u7"}"#);
        assert_eq!(
            read(&sub, &bearer(&format!("bEARER  a.{payload}.c "))).as_deref(),
            Some("u7"),
            "the scheme has no case"
        );
        for value in [
            String::new(),
            "Bearer".to_owned(),
            format!("Basic a.{payload}.c"),
            format!("Bearer {payload}"),
            format!("Bearer a.{payload}"),
            format!("Bearer a.{payload}.c.d.e"),
            "Bearer a.!!!.c".to_owned(),
            format!("Bearer a.{}.c", "A".repeat(TOKEN_BYTES_MAX)),
        ] {
            assert_eq!(read(&sub, &bearer(&value)), None, "{value:.40}");
        }
        assert_eq!(read(&sub, &HeaderMap::new()), None);
    }

    #[test]
    fn testers_say_exactly_the_word() {
        let admitted = |by: UserKey, headers: &HeaderMap| {
            let value = "next".to_owned();
            Testers { by, value }.admit(headers)
        };
        let header = || UserKey::Header(HeaderName::from_static("x-try"));
        let said = |name, value| {
            HeaderMap::from_iter([(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )])
        };
        assert!(admitted(header(), &said("x-try", "next")));
        assert!(!admitted(header(), &said("x-try", "Next")));
        assert!(!admitted(header(), &said("x-try", "next2")));
        assert!(!admitted(header(), &HeaderMap::new()));
        let cookie = UserKey::Cookie("try".to_owned());
        assert!(admitted(cookie.clone(), &said("cookie", "a=b; try=next")));
        assert!(!admitted(cookie, &said("cookie", "retry=next")));
    }

    proptest! {
        #[test]
        fn no_header_value_breaks_the_reading(value in prop::collection::vec(32..=255_u8, 0..200), claims in ".{0,80}") {
            let sub = UserKey::Claim("sub".to_owned());
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                sub.read(&HeaderMap::from_iter([(AUTHORIZATION, value)]), nobody);
            }
            sub.read(&token(&claims), nobody);
        }
    }
}
