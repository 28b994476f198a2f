//! Is it this machine that is asked?

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use reqwest::Url;

/// Is it this machine? Then no proxy comes between, and a key is not sent over a network.
pub(crate) fn is_here(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).trim_end_matches('.');
    let named = host == "localhost" || host.ends_with(".localhost");
    named || host.parse::<IpAddr>().is_ok_and(|address| is_own(address.to_canonical()))
}

/// Is it an address of this machine? What is sent there comes from that same address. Nothing is sent to find out.
fn is_own(address: IpAddr) -> bool {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let from = || {
        let socket = std::net::UdpSocket::bind((any, 0))?;
        socket.connect((address, 9))?;
        socket.local_addr()
    };
    address.is_loopback() || address.is_unspecified() || from().is_ok_and(|from| from.ip() == address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known_by_any_of_its_names() {
        for (url, is) in [
            ("http://localhost:1", true),
            ("http://127.0.0.9", true),
            ("http://[::1]:8080", true),
            ("http://localhost.:1", true),
            ("http://wiz.localhost", true),
            ("http://[::ffff:127.0.0.1]:1", true),
            ("http://0.0.0.0:1", true),
            ("http://192.0.2.1", false),
            ("http://[2001:db8::1]", false),
            ("http://localhost.example.com", false),
        ] {
            assert_eq!(is_here(&url.parse().unwrap()), is, "{url}");
        }
    }
}
