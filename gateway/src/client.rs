//! What counts as one client, for whatever has a bound for each.

use std::net::{IpAddr, Ipv6Addr};

/// The one client behind an address: an IPv4 address, however it is written, or the /64 of an IPv6 one. That is what one
/// customer has: counted one by one, its addresses would have no bound.
pub(crate) fn behind(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
        ip => ip,
    }
}
