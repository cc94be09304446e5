//! The route, and whether the data plane serves it.

pub mod applied;
pub mod http_route;
