//! How many connections there may be: in all, and from one address.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::client;

/// Counts connections. Clones share the count.
#[derive(Debug, Clone)]
pub(super) struct Admission(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    max: usize,
    per_address_max: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// One admitted connection; dropping it makes room.
#[derive(Debug)]
pub(super) struct Seat {
    admission: Admission,
    address: IpAddr,
}

impl Admission {
    pub(super) fn new(max: usize, per_address_max: usize) -> Self {
        Self(Arc::new(Counted { max, per_address_max, open: Mutex::default() }))
    }

    /// A seat for a connection from `address`, if there is one; otherwise the name of the bound that is reached.
    pub(super) fn enter(&self, address: IpAddr) -> Result<Seat, &'static str> {
        let address = client::behind(address);
        let mut open = self.open();
        if open.all >= self.0.max {
            return Err("connections");
        }
        let of_address = open.by_address.entry(address).or_default();
        if *of_address >= self.0.per_address_max {
            return Err("connections_per_address");
        }
        *of_address = of_address.saturating_add(1);
        open.all = open.all.saturating_add(1);
        Ok(Seat { admission: self.clone(), address })
    }

    /// Connections that are open.
    pub(super) fn open_connections(&self) -> usize {
        self.open().all
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.admission.open();
        open.all = open.all.saturating_sub(1);
        if let Some(of_address) = open.by_address.get_mut(&self.address) {
            *of_address = of_address.saturating_sub(1);
            if *of_address == 0 {
                open.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_seat_is_free_again_when_its_connection_ends() {
        let (a, b) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv4Addr::new(10, 0, 0, 1)));
        let admission = Admission::new(3, 2);
        let first = admission.enter(a).unwrap();
        let _second = admission.enter(a.to_canonical()).unwrap();
        assert_eq!(admission.enter(a).unwrap_err(), "connections_per_address");
        let _third = admission.enter(b).unwrap();
        assert_eq!(admission.enter(b).unwrap_err(), "connections");
        drop(first);
        assert!(admission.enter(a).is_ok());
    }

    #[test]
    fn who_has_a_network_of_ipv6_addresses_is_one_client() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let admission = Admission::new(10, 1);
        let seat = admission.enter(address("2001:db8:1:1::1")).unwrap();
        assert_eq!(admission.enter(address("2001:db8:1:1:ffff::2")).unwrap_err(), "connections_per_address");
        assert!(admission.enter(address("2001:db8:1:2::1")).is_ok());
        drop(seat);
        assert!(admission.enter(address("2001:db8:1:1:ffff::2")).is_ok());
    }

    #[test]
    fn an_address_is_one_address_in_both_notations() {
        let admission = Admission::new(10, 1);
        let _seat = admission.enter(IpAddr::from(Ipv4Addr::LOCALHOST)).unwrap();
        assert!(admission.enter(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into()).is_err());
    }
}
