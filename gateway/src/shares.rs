//! Who may hold how much of a pool of bytes: a bound of the node, and within it a share of each tenant and of each of its
//! connections, a part that only light tenants reach, and a reserve that work never reaches.
//!
//! ```text
//! 0 ─────────────── work ─────────────── │ first bytes of light tenants │ control │ operators │ node's bound
//! ```
//! Pure: it counts, and neither takes memory nor waits. [`crate::memory`] is its shell.
//!
//! **Invariants**
//! - What is held together is never more than the node's bound, and what tenants hold for work never more than that without
//!   the reserve.
//! - A tenant that holds more than its first bytes has at most half of what all others leave, when it takes: whoever comes next finds as much
//!   as it took. However many are greedy, there is something left.
//! - What was given back in full is forgotten.

use std::collections::HashMap;

use wasmwiz_events::id::TenantId;

/// What a tenant may hold at first, in bytes, from the part that heavier ones do not reach: what ordinary requests and answers take.
pub(crate) const LIGHT_TENANT_BYTES: u64 = 1 << 20;

/// The part of the pool for tenants that hold no more than that: one in so many bytes.
const LIGHT_PART: u64 = 8;

/// What a tenant may hold of the reserve, in bytes, for what keeps it in control of itself, such as its keys: a few requests.
const CONTROL_TENANT_BYTES: u64 = 256 << 10;

/// A connection of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ConnectionId(pub(crate) u64);

/// How much there is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Of all together, in bytes.
    pub(crate) node_bytes: u64,
    /// Of one tenant, in bytes.
    pub(crate) tenant_bytes: u64,
    /// Of one connection of a tenant, in bytes.
    pub(crate) connection_bytes: u64,
    /// Of the node's, what work does not reach, in bytes. Operators reach all of it, tenants' control half.
    pub(crate) reserved_bytes: u64,
}

impl Bounds {
    const fn open(&self) -> u64 {
        self.node_bytes.saturating_sub(self.reserved_bytes)
    }

    /// What tenants that hold more than their first bytes may have together.
    const fn heavy(&self) -> u64 {
        self.open().saturating_sub(self.open() / LIGHT_PART)
    }
}

/// What it is held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// What tenants come for.
    Work,
    /// What keeps a tenant in control of itself: its keys and tokens.
    Control,
    /// What operators do.
    Operation,
}

/// Whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) tenant: TenantId,
    /// Over which connection; `None` for what comes over none.
    pub(crate) connection: Option<ConnectionId>,
}

/// Why nothing can be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// The tenant holds what one tenant may.
    Tenant,
    /// The connection holds what one connection may.
    Connection,
    /// It is more than half of what the others leave, and the tenant holds more than its first bytes.
    Crowded,
    /// All together hold all there is.
    Node,
    /// There is not as much for one, whoever holds what.
    Always,
}

/// What one tenant holds, in bytes.
#[derive(Debug, Default)]
struct Held {
    work: u64,
    reserve: u64,
    by_connection: HashMap<ConnectionId, u64>,
}

/// Who holds what.
#[derive(Debug)]
pub(crate) struct Ledger {
    bounds: Bounds,
    /// What all hold, in bytes.
    used: u64,
    /// Those who hold any, so that it is no larger than there are requests.
    tenants: HashMap<TenantId, Held>,
}

impl Ledger {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, used: 0, tenants: HashMap::new() }
    }

    /// Counts `bytes` for the holder, if it may have them; otherwise nothing changes.
    pub(crate) fn take(&mut self, holder: &Holder, purpose: Purpose, bytes: u64) -> Result<(), Full> {
        let held = self.tenants.get(&holder.tenant);
        let used = self.used.saturating_add(bytes);
        match purpose {
            Purpose::Work => self.may_work(holder, held, bytes, used)?,
            Purpose::Control => {
                let own = held.map_or(0, |held| held.reserve).saturating_add(bytes);
                if own > CONTROL_TENANT_BYTES {
                    return Err(Full::Tenant);
                }
                if used > self.bounds.node_bytes.saturating_sub(self.bounds.reserved_bytes / 2) {
                    return Err(Full::Node);
                }
            }
            Purpose::Operation if used > self.bounds.node_bytes => return Err(Full::Node),
            Purpose::Operation => {}
        }
        self.used = used;
        let held = self.tenants.entry(holder.tenant.clone()).or_default();
        match purpose {
            Purpose::Work => {
                held.work = held.work.saturating_add(bytes);
                if let Some(connection) = holder.connection {
                    let own = held.by_connection.entry(connection).or_default();
                    *own = own.saturating_add(bytes);
                }
            }
            Purpose::Control | Purpose::Operation => held.reserve = held.reserve.saturating_add(bytes),
        }
        Ok(())
    }

    fn may_work(&self, holder: &Holder, held: Option<&Held>, bytes: u64, used: u64) -> Result<(), Full> {
        let bounds = &self.bounds;
        if !self.fits(bytes) {
            return Err(Full::Always);
        }
        let before = held.map_or(0, |held| held.work);
        let own = before.saturating_add(bytes);
        if own > bounds.tenant_bytes {
            return Err(Full::Tenant);
        }
        let over = holder.connection.zip(held).and_then(|(connection, held)| held.by_connection.get(&connection));
        if over.copied().unwrap_or_default().saturating_add(bytes) > bounds.connection_bytes {
            return Err(Full::Connection);
        }
        if own <= LIGHT_TENANT_BYTES {
            return if used > bounds.open() { Err(Full::Node) } else { Ok(()) };
        }
        if used > bounds.heavy() {
            return Err(Full::Node);
        }
        let others = self.used.saturating_sub(before);
        let left = bounds.heavy().saturating_sub(others);
        if own > left / 2 { Err(Full::Crowded) } else { Ok(()) }
    }

    /// Could a tenant that holds nothing have as much for its work, when nobody else holds any?
    pub(crate) fn fits(&self, bytes: u64) -> bool {
        let Bounds { tenant_bytes, connection_bytes, .. } = self.bounds;
        let one = if bytes <= LIGHT_TENANT_BYTES { self.bounds.open() } else { self.bounds.heavy() / 2 };
        bytes <= tenant_bytes.min(connection_bytes).min(one)
    }

    /// Counts back what the holder has taken for this purpose.
    pub(crate) fn give_back(&mut self, holder: &Holder, purpose: Purpose, bytes: u64) {
        let Some(held) = self.tenants.get_mut(&holder.tenant) else { return };
        self.used = self.used.saturating_sub(bytes);
        match purpose {
            Purpose::Work => {
                held.work = held.work.saturating_sub(bytes);
                if let Some(connection) = holder.connection
                    && let Some(own) = held.by_connection.get_mut(&connection)
                {
                    *own = own.saturating_sub(bytes);
                    if *own == 0 {
                        held.by_connection.remove(&connection);
                    }
                }
            }
            Purpose::Control | Purpose::Operation => held.reserve = held.reserve.saturating_sub(bytes),
        }
        if held.work == 0 && held.reserve == 0 {
            self.tenants.remove(&holder.tenant);
        }
    }

    /// What all hold, in bytes.
    #[cfg(test)]
    pub(crate) fn used(&self) -> u64 {
        self.used
    }
}

#[cfg(test)]
mod tests;
