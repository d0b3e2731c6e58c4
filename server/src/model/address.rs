//! Networks: which peers are the proxy in front, and which addresses a webhook must not reach.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address range such as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: IpAddr,
    bits: u8,
}

impl core::str::FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Cidr, String> {
        let wrong = || format!("\"{text}\": want an address and a length, such as 10.0.0.0/8");
        let (base, bits) = match text.split_once('/') {
            Some((base, bits)) => (base, Some(bits.parse::<u8>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let base: IpAddr = base.parse().map_err(|_| wrong())?;
        let longest = if base.is_ipv4() { 32 } else { 128 };
        match bits.unwrap_or(longest) {
            bits if bits <= longest => Ok(Cidr { base, bits }),
            _ => Err(wrong()),
        }
    }
}

impl Cidr {
    /// Whether an address is in it. An IPv4 address that came as IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let shifted = |number: u128, longest: u32| number.checked_shr(longest - u32::from(self.bits)).unwrap_or(0);
        match (self.base, plain(address)) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let number = |address: Ipv4Addr| u128::from(u32::from(address));
                shifted(number(base), 32) == shifted(number(address), 32)
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                shifted(u128::from(base), 128) == shifted(u128::from(address), 128)
            }
            _ => false,
        }
    }
}

/// An IPv4 address that is written as IPv6, as IPv4.
pub fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// Whom an address stands for where attempts are counted: itself, or with IPv6 its network, as anybody has all of one.
pub fn network(address: IpAddr) -> String {
    match plain(address) {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("{}/64", Ipv6Addr::from(u128::from(address) >> 64 << 64)),
    }
}

/// The client of a request that came through proxies: the last address of `X-Forwarded-For` that is none of ours.
pub fn client(peer: IpAddr, forwarded: &str, proxies: &[Cidr]) -> IpAddr {
    let ours = |address: IpAddr| proxies.iter().any(|proxy| proxy.contains(address));
    let mut client = plain(peer);
    for word in forwarded.rsplit(',') {
        if !ours(client) {
            break;
        }
        match word.trim().parse() {
            Ok(before) => client = plain(before),
            Err(_) => break,
        }
    }
    client
}

/// Whether a `Host` header names us in a way that no DNS entry of somebody else can: an address, localhost, or the name of
/// our own URL.
pub fn is_own_host(host: &str, own: Option<&str>) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let inside = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let is_address = match inside {
        Some(inside) => inside.parse::<Ipv6Addr>().is_ok(),
        None => name.parse::<Ipv4Addr>().is_ok(),
    };
    let own = own.map(|url| url.split("://").nth(1).unwrap_or_default().split('/').next().unwrap_or_default());
    let own_name = own.map(|own| own.rsplit_once(':').map_or(own, |(name, _)| name));
    is_address || name.eq_ignore_ascii_case("localhost") || own_name.is_some_and(|own| own.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    #[test]
    fn ranges() {
        for (range, address, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("0.0.0.0/0", "8.8.8.8", true),
            ("0.0.0.0/0", "::1", false),
            ("10.0.0.0/8", "::ffff:10.1.1.1", true),
            ("fd00::/8", "fd12::1", true),
            ("fd00::/8", "fe80::1", false),
            ("::/0", "fe80::1", true),
        ] {
            assert_eq!(range.parse::<Cidr>().expect(range).contains(ip(address)), inside, "{range} {address}");
        }
        for bad in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/x", "host/8"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn networks() {
        for (address, wanted) in
            [("10.0.0.1", "10.0.0.1"), ("::ffff:10.0.0.1", "10.0.0.1"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64")]
        {
            assert_eq!(network(ip(address)), wanted);
        }
    }

    #[test]
    fn only_a_proxy_is_believed() {
        let proxies = ["10.0.0.0/24".parse().expect("a range")];
        for (peer, forwarded, wanted) in [
            ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
            ("10.0.0.1", "1.2.3.4, 203.0.113.9", "203.0.113.9"),
            ("10.0.0.1", "203.0.113.9, 10.0.0.7", "203.0.113.9"),
            ("10.0.0.1", "", "10.0.0.1"),
            ("10.0.0.1", "nonsense", "10.0.0.1"),
            ("192.0.2.1", "203.0.113.9", "192.0.2.1"),
        ] {
            assert_eq!(client(ip(peer), forwarded, &proxies), ip(wanted), "{peer} {forwarded}");
        }
    }

    #[test]
    fn hosts_that_are_ours() {
        let own = Some("https://boot.example.com:8443");
        for good in ["127.0.0.1:8081", "localhost", "LOCALHOST:1", "[::1]:8081", "10.0.0.1", "Boot.example.com"] {
            assert!(is_own_host(good, own), "{good}");
        }
        for bad in ["", "evil.example.com", "evil.example.com:8081", "localhost.evil.com", "127.0.0.1.evil.com", "::1"]
        {
            assert!(!is_own_host(bad, own), "{bad}");
        }
    }
}
