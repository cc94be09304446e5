//! Request and response heads: what is read, what is not passed on, what is added.

use std::net::SocketAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Method, Request, Uri, Version};
use hyper::body::{Body as _, Incoming};

use super::refusal::Refusal;
use crate::forwarded::X_FORWARDED_FOR;
use crate::mirror::HEADER_MIRROR;
use crate::pool::Outgoing;

const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Where a request wants to go.
#[derive(Debug)]
pub(super) struct Target {
    /// In lower case, without a port.
    pub(super) host: String,
    /// As it came: the value of `Host`.
    authority: HeaderValue,
    path: PathAndQuery,
}

impl Target {
    /// Reads it, and refuses what two programs could read in two ways.
    pub(super) fn of(request: &Request<Incoming>) -> Result<Self, Refusal> {
        if request.method() == Method::CONNECT || is_upgrade(request.headers()) {
            return Err(Refusal::NotSupported);
        }
        let mut hosts = request.headers().get_all(HOST).iter();
        let host = hosts.next();
        if hosts.next().is_some() {
            return Err(Refusal::Malformed("more than one Host"));
        }
        // An absolute target wins over Host (RFC 9112 §3.2.2); HTTP/2 has nothing else.
        let authority = match (request.uri().authority(), host) {
            (Some(authority), _) => HeaderValue::from_str(authority.as_str()).ok(),
            (None, Some(host)) => Some(host.clone()),
            (None, None) => None,
        }
        .ok_or(Refusal::Malformed("no Host"))?;
        let read = Authority::try_from(authority.as_bytes())
            .map_err(|_| Refusal::Malformed("Host is malformed"))?;
        if read.as_str().contains('@') {
            return Err(Refusal::Malformed("Host is malformed"));
        }
        let host = read.host().trim_end_matches('.').to_ascii_lowercase();
        let path = request
            .uri()
            .path_and_query()
            .cloned()
            .unwrap_or(PathAndQuery::from_static("/"));
        if !path.path().starts_with('/') && path.path() != "*" {
            return Err(Refusal::Malformed("the path is malformed"));
        }
        if has_dot_segment(path.path()) {
            return Err(Refusal::Malformed("the path has . or .. in it"));
        }
        Ok(Self {
            host,
            authority,
            path,
        })
    }

    /// The path without the query.
    pub(super) fn path(&self) -> &str {
        self.path.path()
    }
}

/// Whether an upgrade is asked for that a client cannot do without; `h2c` is an offer.
fn is_upgrade(headers: &HeaderMap) -> bool {
    headers
        .get_all(UPGRADE)
        .iter()
        .any(|value| !value.as_bytes().eq_ignore_ascii_case(b"h2c"))
}

/// A backend may resolve dots to a path that another rule guards.
fn has_dot_segment(path: &str) -> bool {
    path.split('/').any(|segment| {
        let plain = segment.len() <= 6 && segment.starts_with(['.', '%']);
        plain
            && matches!(
                segment.to_ascii_lowercase().replace("%2e", ".").as_str(),
                "." | ".."
            )
    })
}

/// Makes of a client's request the one that goes to an endpoint.
pub(super) fn outgoing(
    request: Request<Incoming>,
    target: Target,
    client: SocketAddr,
) -> Request<Outgoing> {
    let (mut parts, body) = request.into_parts();
    strip(&mut parts.headers);
    parts.headers.remove(EXPECT);
    // Said by us alone.
    parts.headers.remove(HEADER_MIRROR);
    forwarded(&mut parts.headers, &target.authority, client);
    parts.headers.insert(HOST, target.authority);
    let mut outgoing = if body.is_end_stream() {
        Request::new(Outgoing::Empty)
    } else {
        Request::new(Outgoing::Streamed(body))
    };
    *outgoing.method_mut() = parts.method;
    *outgoing.uri_mut() = Uri::from(target.path);
    *outgoing.version_mut() = Version::HTTP_11;
    *outgoing.headers_mut() = parts.headers;
    outgoing
}

/// Takes out what concerns one connection alone.
pub(super) fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        // Whoever names these as hop-by-hop wants the next server to read another message.
        .filter(|name| *name != CONTENT_LENGTH && *name != HOST)
        .collect();
    // Chunks say where a message ends; a length beside them is another message to whoever reads it.
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

fn forwarded(headers: &mut HeaderMap, authority: &HeaderValue, client: SocketAddr) {
    let before = headers
        .get_all(X_FORWARDED_FOR)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut chain: Vec<String> = before.map(str::to_owned).collect();
    chain.push(client.ip().to_canonical().to_string());
    if let Ok(chain) = HeaderValue::from_str(&chain.join(", ")) {
        headers.insert(X_FORWARDED_FOR, chain);
    }
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    headers.insert(X_FORWARDED_HOST, authority.clone());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_segments_are_seen_however_they_are_written() {
        for bad in ["/a/../b", "/..", "/%2e%2E/x", "/.%2e", "/./a"] {
            assert!(has_dot_segment(bad), "{bad}");
        }
        for good in ["/", "/a..b", "/...", "/.well-known/x", "/a.b/%2e%2e%2e"] {
            assert!(!has_dot_segment(good), "{good}");
        }
    }

    #[test]
    fn hop_by_hop_headers_go_and_framing_stays() {
        let mut headers = HeaderMap::new();
        headers.insert(
            CONNECTION,
            HeaderValue::from_static("close, X-Secret, content-length"),
        );
        headers.insert("x-secret", HeaderValue::from_static("1"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("3"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert("x-kept", HeaderValue::from_static("1"));
        strip(&mut headers);
        let left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["content-length", "x-kept"]);
    }

    #[test]
    fn a_length_beside_chunks_goes() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("3"));
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        strip(&mut headers);
        assert!(headers.is_empty(), "{headers:?}");
    }

    #[test]
    fn client_is_appended_to_those_before_it() {
        let mut headers = HeaderMap::new();
        headers.insert(X_FORWARDED_FOR, HeaderValue::from_static("10.0.0.1"));
        forwarded(
            &mut headers,
            &HeaderValue::from_static("a.b"),
            "[::ffff:10.0.0.2]:5".parse().unwrap(),
        );
        assert_eq!(headers[X_FORWARDED_FOR], "10.0.0.1, 10.0.0.2");
        assert_eq!(headers[X_FORWARDED_HOST], "a.b");
    }
}
