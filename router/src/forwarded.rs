//! Who a client is: the peer, or whom proxies that we were told to trust speak for.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

/// Header to which each proxy appends its peer.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Networks whose word on their own clients is taken. None by default: anybody can write a header.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// These networks.
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The client: the nearest hop that is not trusted. What stands left of it is that hop's own word.
    /// Where a hop cannot be read, the one that named it is the last that is known.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        let mut hops = headers
            .get_all(X_FORWARDED_FOR)
            .iter()
            .rev()
            .flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
        while self.trusts(client)
            && let Some(hop) = hops.next().and_then(address)
        {
            client = hop;
        }
        client
    }
}

/// An address as proxies write it: bare, in brackets, or with a port.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text.trim_ascii()).ok()?;
    let bare = || text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|it| it.ip());
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let address = bare().or_else(with_port).or_else(bracketed)?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn client(trusted: &[&str], peer: &str, chains: &[&str]) -> String {
        let networks = trusted.iter().map(|text| text.parse().unwrap());
        let mut headers = HeaderMap::new();
        for chain in chains {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_str(chain).unwrap());
        }
        let trusted = TrustedProxies::new(networks.collect());
        let client = trusted.client(peer.parse().unwrap(), &headers);
        client.to_string()
    }

    #[test]
    fn nobody_is_believed_unless_told() {
        assert_eq!(client(&[], "10.0.0.9", &["1.1.1.1"]), "10.0.0.9");
        assert_eq!(
            client(&["192.168.0.0/16"], "10.0.0.9", &["1.1.1.1"]),
            "10.0.0.9"
        );
    }

    #[test]
    fn the_right_most_untrusted_hop_is_the_client() {
        let trusted = &["10.0.0.0/8", "fd00::/8"];
        for (peer, chains, expected) in [
            ("10.0.0.9", &["6.6.6.6, 1.1.1.1"][..], "1.1.1.1"),
            ("10.0.0.9", &["6.6.6.6, 1.1.1.1, 10.0.0.2"], "1.1.1.1"),
            ("10.0.0.9", &["6.6.6.6", "1.1.1.1", "10.0.0.2"], "1.1.1.1"),
            ("::ffff:10.0.0.9", &["1.1.1.1:4711"], "1.1.1.1"),
            ("fd00::1", &["[2001:db8::1]:80"], "2001:db8::1"),
            ("fd00::1", &["[2001:db8::1]"], "2001:db8::1"),
            ("fd00::1", &["2001:db8::1"], "2001:db8::1"),
            // All are ours: the one that is farthest away.
            ("10.0.0.9", &["10.0.0.1, 10.0.0.2"], "10.0.0.1"),
            // Nothing can be said beyond what cannot be read.
            ("10.0.0.9", &["1.1.1.1, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.9", &[""], "10.0.0.9"),
            ("10.0.0.9", &[], "10.0.0.9"),
        ] {
            assert_eq!(client(trusted, peer, chains), expected, "{chains:?}");
        }
    }
}
