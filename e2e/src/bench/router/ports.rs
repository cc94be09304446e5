//! Where everything listens, on loopback: configurations of the peers are plain files and name the
//! same ports. All lie below those that the kernel gives to clients.

use std::net::{Ipv4Addr, SocketAddr};

/// The router's API server.
pub(super) const API: u16 = 18100;
/// The stable arm of the backend.
pub(super) const STABLE: u16 = 18101;
/// Its canary arm.
pub(super) const CANARY: u16 = 18102;
/// The router.
pub(super) const ROUTER: u16 = 18111;
/// The router's admin listener.
pub(super) const ROUTER_ADMIN: u16 = 18112;
/// hyper alone.
pub(super) const BARE: u16 = 18113;
/// The peer `haproxy`.
pub(super) const HAPROXY: u16 = 18114;
/// The peer `nginx`.
pub(super) const NGINX: u16 = 18115;
/// The peer `envoy`.
pub(super) const ENVOY: u16 = 18116;

/// A port on loopback.
pub(super) fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
