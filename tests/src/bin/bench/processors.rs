//! Processors for what is measured, and one apart for what serves it: on another machine in the field, and on this one here.

use anyhow::Context as _;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Those of this process, in two parts. Dropped, the thread has all of them again.
pub(crate) struct Processors {
    all: CpuSet,
    last: CpuSet,
    others: CpuSet,
}

impl Processors {
    /// Where this thread may run: its last processor, and the others. With one processor both are that.
    pub(crate) fn of_this_thread() -> anyhow::Result<Self> {
        let all = sched_getaffinity(None).context("the system does not say which processors there are")?;
        let mut processors = (0..CpuSet::MAX_CPU).filter(|processor| all.is_set(*processor));
        let last_one = processors.next_back().context("there is no processor")?;
        let (mut last, mut others) = (CpuSet::new(), all);
        last.set(last_one);
        if all.count() > 1 {
            others.unset(last_one);
        }
        Ok(Self { all, last, others })
    }

    /// From here on this thread, and what it starts, keeps to the last one.
    pub(crate) fn keep_to_the_last(&self) -> anyhow::Result<()> {
        keep_to(&self.last)
    }

    /// From here on this thread, and what it starts, keeps to the others.
    pub(crate) fn keep_to_the_others(&self) -> anyhow::Result<()> {
        keep_to(&self.others)
    }

    /// Is the last one none of the others?
    pub(crate) fn are_apart(&self) -> bool {
        self.last != self.others
    }
}

impl Drop for Processors {
    fn drop(&mut self) {
        // It may run there; if that were refused, what follows would be slower, and nothing else.
        let _ = keep_to(&self.all);
    }
}

fn keep_to(processors: &CpuSet) -> anyhow::Result<()> {
    sched_setaffinity(None, processors).context("this thread cannot be kept to some processors")
}
