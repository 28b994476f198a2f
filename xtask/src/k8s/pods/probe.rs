//! Probes, as a kubelet counts them. Times are since the container's start.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::set::number;
use crate::k8s::manifest::{at, items};

/// What is asked, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Probe {
    pub(super) path: String,
    pub(super) port: u16,
    period: Duration,
    pub(super) timeout: Duration,
    /// So many failures in a row count as one.
    failures: u32,
}

/// The three of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Probes {
    startup: Probe,
    readiness: Probe,
    liveness: Probe,
}

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// Has it started? The others wait for this one.
    Startup,
    /// May it be sent requests?
    Readiness,
    /// Is it to be started again?
    Liveness,
}

/// How a container is, by its probes.
#[derive(Debug, Default)]
pub(super) struct Health {
    pub(super) started: bool,
    pub(super) ready: bool,
    startup: Count,
    readiness: Count,
    liveness: Count,
}

#[derive(Debug, Default)]
struct Count {
    asked_at: Option<Duration>,
    failed: u32,
}

impl Probes {
    /// # Errors
    /// When one is missing, or asks at a port that the container does not name.
    pub(super) fn read(container: &Value) -> anyhow::Result<Self> {
        let probe = |name: &str| Probe::read(container, at(container, &format!("/{name}"))).context(name.to_owned());
        Ok(Self {
            startup: probe("startupProbe")?,
            readiness: probe("readinessProbe")?,
            liveness: probe("livenessProbe")?,
        })
    }

    pub(super) const fn get(&self, which: Which) -> &Probe {
        match which {
            Which::Startup => &self.startup,
            Which::Readiness => &self.readiness,
            Which::Liveness => &self.liveness,
        }
    }
}

impl Probe {
    fn read(container: &Value, probe: &Value) -> anyhow::Result<Self> {
        let port = at(probe, "/httpGet/port");
        let named = items(container.get("ports")).find(|named| at(named, "/name") == port);
        let port = match (port.as_u64(), named) {
            (Some(port), _) => port,
            (None, Some(named)) => number(at(named, "/containerPort"))?,
            (None, None) => anyhow::bail!("it asks at the port {port}, which the container does not have"),
        };
        let seconds = |field: &str| number(at(probe, field)).map(Duration::from_secs);
        let probe = Self {
            path: at(probe, "/httpGet/path").as_str().context("it asks for no path")?.to_owned(),
            port: port.try_into()?,
            period: seconds("/periodSeconds")?,
            timeout: seconds("/timeoutSeconds")?,
            failures: number(at(probe, "/failureThreshold"))?.try_into()?,
        };
        ensure!(!probe.period.is_zero() && !probe.timeout.is_zero() && probe.failures > 0, "it has a bound of nothing");
        Ok(probe)
    }
}

impl Health {
    /// What is to be asked now.
    pub(super) fn due(&self, probes: &Probes, now: Duration) -> Option<Which> {
        let waits: &[Which] = if self.started { &[Which::Readiness, Which::Liveness] } else { &[Which::Startup] };
        let is_due = |which: &Which| {
            self.count(*which).asked_at.is_none_or(|asked| now.saturating_sub(asked) >= probes.get(*which).period)
        };
        waits.iter().copied().find(is_due)
    }

    /// It was asked at that time, and this came of it. Is the container to be started again?
    #[must_use]
    pub(super) fn saw(&mut self, probes: &Probes, which: Which, well: bool, asked_at: Duration) -> bool {
        let count = match which {
            Which::Startup => &mut self.startup,
            Which::Readiness => &mut self.readiness,
            Which::Liveness => &mut self.liveness,
        };
        count.asked_at = Some(asked_at);
        count.failed = if well { 0 } else { count.failed.saturating_add(1) };
        let failed = count.failed >= probes.get(which).failures;
        match which {
            Which::Startup => {
                self.started |= well;
                failed
            }
            Which::Readiness => {
                self.ready = well || (self.ready && !failed);
                false
            }
            Which::Liveness => failed,
        }
    }

    const fn count(&self, which: Which) -> &Count {
        match which {
            Which::Startup => &self.startup,
            Which::Readiness => &self.readiness,
            Which::Liveness => &self.liveness,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn probes() -> Probes {
        let probe = |path: &str, failures: u32, period: u32| json!({"failureThreshold": failures, "periodSeconds": period, "timeoutSeconds": 1, "httpGet": {"path": path, "port": "admin"}});
        let container = json!({
            "ports": [{"name": "api", "containerPort": 1}, {"name": "admin", "containerPort": 9090}],
            "startupProbe": probe("/s", 3, 2), "readinessProbe": probe("/r", 2, 5), "livenessProbe": probe("/l", 3, 10),
        });
        Probes::read(&container).unwrap()
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_port_is_found_by_its_name() {
        assert_eq!((probes().get(Which::Liveness).port, probes().get(Which::Liveness).path.as_str()), (9090, "/l"));
    }

    #[test]
    fn nothing_else_is_asked_until_it_has_started() {
        let (probes, mut health) = (probes(), Health::default());
        assert_eq!(health.due(&probes, seconds(0)), Some(Which::Startup));
        assert!(!health.saw(&probes, Which::Startup, false, seconds(0)));
        assert_eq!(health.due(&probes, seconds(1)), None);
        assert_eq!(health.due(&probes, seconds(2)), Some(Which::Startup));
        assert!(!health.saw(&probes, Which::Startup, true, seconds(2)));
        assert!(health.started && !health.ready);
        assert_eq!(health.due(&probes, seconds(2)), Some(Which::Readiness));
    }

    #[test]
    fn one_that_does_not_start_and_one_that_hangs_are_started_again_after_the_last_failure() {
        let (probes, mut health) = (probes(), Health::default());
        let failed: Vec<_> = (0..3).map(|n| health.saw(&probes, Which::Startup, false, seconds(2 * n))).collect();
        assert_eq!(failed, [false, false, true]);
        let mut health = Health { started: true, ..Health::default() };
        let failed = [false, false, true, false, false, false]
            .map(|well| health.saw(&probes, Which::Liveness, well, seconds(0)));
        assert_eq!(failed, [false, false, false, false, false, true]);
    }

    #[test]
    fn it_is_ready_at_the_first_good_word_and_not_ready_at_the_last_bad_one() {
        let (probes, mut health) = (probes(), Health { started: true, ..Health::default() });
        for (well, ready) in [(false, false), (true, true), (false, true), (true, true), (false, true), (false, false)]
        {
            assert!(!health.saw(&probes, Which::Readiness, well, seconds(0)));
            assert_eq!(health.ready, ready);
        }
    }
}
