//! Which commands may be sent again when it is not known whether they were taken in.
//!
//! A command that was certainly not taken in may always be. Of the others only those may whose second decision changes
//! nothing that the first did not: who asks is told that it is not known, rather than that it was done twice.

use crate::{
    handle::Ask,
    tenant::{Command, Configured, Metered, Rerun},
};

/// May it be decided a second time without harm, and is the second answer one that its caller can use?
pub(super) fn may_be(ask: &Ask) -> bool {
    match &ask.command {
        // Nothing follows from these.
        Command::Preview(_) | Command::Authorise(_) => true,
        // What they record has happened already, and is recorded once: the second finds it so.
        Command::Finish(_) | Command::Reap | Command::Lose { .. } | Command::Expire => true,
        // So is a skip. What is released is not there any more to be released.
        Command::SkipCommit(_) | Command::ReleasePayloads => true,
        // The second would be told which execution came of the request, and not what it is to run: it would never end.
        Command::Execute(execute)
        | Command::Rerun(Rerun { execute, .. })
        | Command::Metered(Metered { execute, .. })
        | Command::Configured(Configured { execute, .. })
            if !execute.asynchronous =>
        {
            false
        }
        // The second would be refused for what the first did.
        Command::Start { .. } | Command::Cancel { .. } | Command::RecordDenials(_) => false,
        // With a key the owner knows the request again, and answers what came of it.
        Command::Execute(_)
        | Command::Rerun(_)
        | Command::Metered(_)
        | Command::Configured(_)
        | Command::Register { .. }
        | Command::Change { .. }
        | Command::Suspend { .. }
        | Command::Resume
        | Command::IssueKey(_)
        | Command::RevokeKey { .. }
        | Command::RotateKey { .. }
        | Command::PublishModule { .. }
        | Command::PublishVersion(_)
        | Command::RejectModule { .. }
        | Command::DeleteModule { .. }
        | Command::RecordVerification(_) => ask.origin.once.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use wasmwiz_events::{
        digest::Digest, id::TenantId, idempotency::Idempotency, revision::Position, skip::Skipped, tenant::Tier,
    };

    use super::*;
    use crate::{
        aggregate::Authority,
        handle::Origin,
        ids::Ids,
        tenant::{Execute, scenario::*},
    };

    fn repeatable(command: Command, with_key: bool) -> bool {
        let digest = Digest::of(b"once");
        let once = with_key.then_some(Idempotency { key: digest, request: digest });
        let origin = Origin::internal(Ids.command()).once(once);
        may_be(&Ask { command, by: Authority::System, origin, payloads: vec![] })
    }

    fn asynchronous() -> Command {
        let Command::Execute(execute) = execute(HELLO) else { unreachable!() };
        Command::Execute(Box::new(Execute { asynchronous: true, ..*execute }))
    }

    #[test]
    fn what_changes_nothing_or_reports_is_sent_again_without_a_key() {
        let lose = Command::Lose { execution_id: execution_id(1), node: node(), boot: boot(1) };
        let (tenant, position) = (TenantId::new("acme").unwrap(), Position::new(7));
        let skip = Command::SkipCommit(Skipped { tenant, position, reason: "gone".to_owned() });
        let preview = Command::Preview(Box::new(execute(HELLO)));
        for command in [finish(1), Command::Reap, lose, Command::Expire, preview, skip] {
            assert!(repeatable(command, false));
        }
    }

    #[test]
    fn what_changes_something_is_sent_again_with_a_key_only() {
        for command in [register("Acme", Tier::Free), Command::IssueKey(new_key(K1)), asynchronous()] {
            assert_eq!((repeatable(command.clone(), false), repeatable(command, true)), (false, true));
        }
    }

    #[test]
    fn what_would_not_be_answered_as_before_is_never_sent_again() {
        let Command::Execute(awaited) = execute(HELLO) else { unreachable!() };
        let metered = Command::Metered(Metered { fuel: 1, of: None, execute: awaited });
        for command in [execute(HELLO), metered, start(1, 1), cancel(1)] {
            assert!(!repeatable(command, true));
        }
    }
}
