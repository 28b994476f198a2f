//! From the refusals and errors of the other crates to problems: the only place that does.

use wasmwiz_actors::{
    dispatch::DispatchError, executor::Rejection, handle::AskError, tenant::Refusal, verify::NotVerifiable,
};
use wasmwiz_events::{blobs::BlobError, log::ReadError, revision::Position};
use wasmwiz_projections::{Behind, QueryError};

use super::{Kind, Problem};
use crate::{idempotency, rate_limit::RateLimit, writes};

/// When to try again after the log or a view could not, in milliseconds: about the time a failover takes.
const UNAVAILABLE_RETRY_MS: u64 = 1_000;

/// When to try again while as many executions are open as may be, in milliseconds: most end within it.
const CONCURRENT_RETRY_MS: u64 = 1_000;

/// When to try again after a stream was set aside, in milliseconds: people have to look at it.
const SET_ASIDE_RETRY_MS: u64 = 60_000;

/// One text for everything that can be wrong with a credential: which part is wrong helps nobody but a guesser.
pub(crate) const UNAUTHENTICATED: &str = "No valid credential came with the request. Send `Authorization: Bearer <API key or token>` with one that is \
     neither revoked nor expired.";

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let kind = match &refusal {
            Refusal::NotRegistered => Kind::TenantNotFound,
            Refusal::AlreadyRegistered => Kind::TenantExists,
            Refusal::Suspended => Kind::TenantSuspended,
            Refusal::InvalidName => Kind::InvalidName,
            Refusal::KeyUnknown => Kind::KeyNotFound,
            Refusal::KeyRevoked | Refusal::KeyExpired(_) => return Self::new(Kind::Unauthenticated, UNAUTHENTICATED),
            Refusal::MissingScope(_) | Refusal::NotAKey => Kind::MissingScope,
            Refusal::WiderScopes => Kind::WiderScopes,
            Refusal::HostClockForbidden => Kind::HostClockForbidden,
            Refusal::NoScopes | Refusal::ExpiresInThePast => Kind::InvalidBody,
            Refusal::GraceTooLong { .. } => Kind::InvalidBody,
            Refusal::KeyNotLive => Kind::KeyNotLive,
            Refusal::KeyExists => Kind::KeyExists,
            Refusal::TooManyKeys { .. } => Kind::TooManyKeys,
            Refusal::ModuleUnknown => Kind::ModuleNotFound,
            Refusal::VersionUnknown { .. } => Kind::VersionNotFound,
            Refusal::TooManyModules { .. } | Refusal::TooManyModuleNames { .. } => Kind::TooManyModules,
            Refusal::TooManyVersions { .. } => Kind::TooManyVersions,
            Refusal::ModuleTooLarge { .. } | Refusal::StdinTooLarge { .. } => Kind::BodyTooLarge,
            Refusal::BadArguments { .. } => Kind::InvalidArguments,
            Refusal::RateLimited { .. } | Refusal::WritesLimited { .. } => Kind::RateLimited,
            Refusal::DailyQuotaUsed { .. } => Kind::DailyQuotaUsed,
            Refusal::TooManyConcurrent { .. } => Kind::TooManyConcurrent,
            Refusal::TooManyQueued { .. } => Kind::TooManyQueued,
            Refusal::DeadlinePassed => Kind::DeadlinePassed,
            Refusal::ExecutionStarted => Kind::ExecutionRunning,
            Refusal::ExecutionNotOpen | Refusal::StaleAttempt { .. } => Kind::ExecutionNotOpen,
            Refusal::SystemTenant | Refusal::NotSkippable => Kind::SystemTenant,
            Refusal::InvalidReason => Kind::InvalidBody,
            Refusal::TooManySkips { .. } => Kind::TooManySkips,
            Refusal::StorageQuotaExceeded { .. } | Refusal::StorageKeptFree { .. } => Kind::StorageQuotaExceeded,
            Refusal::Stale => Kind::PreconditionFailed,
            // Nothing that a caller asks for is refused so.
            Refusal::DenialsRecordedLately { .. } => Kind::NodeBusy,
            // It is prepared anew and asked for again; a name that is published anew each time is rather busy.
            Refusal::OtherSettings(_) => return Self::busy(UNAVAILABLE_RETRY_MS),
            Refusal::IdempotencyKeyReused => Kind::IdempotencyKeyReused,
            Refusal::TooManyIdempotencyKeys { .. } => Kind::TooManyIdempotencyKeys,
        };
        let problem = Self::new(kind, sentence(&refusal.to_string()));
        match refusal {
            Refusal::RateLimited { per_minute, retry_after_ms } => {
                limited(problem, "executions", u64::from(per_minute), Some(60), retry_after_ms)
            }
            Refusal::WritesLimited { per_minute, retry_after_ms } => {
                limited(problem, "writes", u64::from(per_minute), Some(60), retry_after_ms)
            }
            Refusal::DailyQuotaUsed { per_day, retry_after_ms } => {
                limited(problem, "executions-daily", per_day, Some(86_400), retry_after_ms)
            }
            Refusal::TooManyConcurrent { limit } => {
                limited(problem, "executions-concurrent", u64::from(limit), None, CONCURRENT_RETRY_MS)
            }
            Refusal::TooManyIdempotencyKeys { limit, retry_after_ms } => {
                limited(problem, "idempotency-keys", u64::from(limit), Some(86_400), retry_after_ms)
            }
            Refusal::TooManyQueued { limit } => {
                limited(problem, "executions-queued", u64::from(limit), None, CONCURRENT_RETRY_MS)
            }
            Refusal::StorageKeptFree { .. } => problem.retry_after_ms(CONCURRENT_RETRY_MS),
            Refusal::MissingScope(scope) => problem.because(scope.as_str()),
            Refusal::GraceTooLong { limit_seconds } => {
                problem.at("/grace_seconds", format!("is a number from 0 to {limit_seconds}"))
            }
            Refusal::NoScopes => problem.at("/scopes", "must name at least one scope"),
            Refusal::InvalidReason => problem.at("/reason", "has 1 to 500 characters and no control characters"),
            Refusal::ExpiresInThePast => problem.at("/expires_at", "must lie in the future"),
            _ => problem,
        }
    }
}

/// What a refusal for being over a limit says beside its text.
fn limited(
    problem: Problem,
    policy: &'static str,
    quota: u64,
    window_seconds: Option<u64>,
    retry_after_ms: u64,
) -> Problem {
    RateLimit::used_up(policy, quota, window_seconds, retry_after_ms).refuse(problem)
}

impl From<AskError> for Problem {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Refused(refusal) => refusal.into(),
            AskError::Busy { retry_after_ms } => Self::busy(retry_after_ms),
            AskError::Unavailable { reason, retry_after_ms } => Self::new(
                Kind::Unavailable,
                "The command could not be recorded, and it may not be known whether it took effect. Read the resource \
                 before you try again.",
            )
            .retry_after_ms(retry_after_ms)
            .caused_by(reason),
        }
    }
}

impl From<DispatchError> for Problem {
    fn from(error: DispatchError) -> Self {
        match error {
            DispatchError::Ask(error) => error.into(),
            DispatchError::Rejected(rejection) => rejection.into(),
            DispatchError::RanBefore { execution_id, .. } => {
                idempotency::in_progress(Some(&format!("/v1/executions/{execution_id}")))
            }
            DispatchError::InProgress => idempotency::in_progress(None),
            DispatchError::Busy { retry_after_ms } => Self::busy(retry_after_ms),
            DispatchError::DiskFull => writes::out_of_space(),
            DispatchError::TooManyCompilations { limit, retry_after_ms } => {
                let problem = Self::new(Kind::TooManyCompilations, sentence(&error.to_string()));
                limited(problem, "compilations-concurrent", limit as u64, None, retry_after_ms)
            }
            DispatchError::CompiledTooMuch { ms_per_minute, retry_after_ms } => {
                let problem = Self::new(Kind::TooManyCompilations, sentence(&error.to_string()));
                limited(problem, "compilation-cpu-ms", ms_per_minute, Some(60), retry_after_ms)
            }
            DispatchError::TooManyUploads { limit, retry_after_ms } => {
                let problem = Self::new(Kind::TooManyUploads, sentence(&error.to_string()));
                limited(problem, "uploads-concurrent", limit as u64, None, retry_after_ms)
            }
            DispatchError::KeptInVain { limit_bytes, retry_after_ms } => {
                let problem = Self::new(Kind::RateLimited, sentence(&error.to_string()));
                limited(problem, "kept-in-vain-bytes", limit_bytes, Some(3_600), retry_after_ms)
            }
            DispatchError::NotVerifiable(error) => error.into(),
            DispatchError::Inconclusive(error) => Self::not_now(&format!("{error}; nothing was recorded")),
            DispatchError::NotNow(why) => {
                Self::not_now(&format!("{why}; nothing was recorded, try again after the pause"))
            }
            DispatchError::Blobs(error) => error.into(),
            DispatchError::Host(cause) => Self::internal(cause),
        }
    }
}

impl From<NotVerifiable> for Problem {
    fn from(error: NotVerifiable) -> Self {
        let kind = match &error {
            NotVerifiable::Running => Kind::ExecutionRunning,
            NotVerifiable::Gone(_) => Kind::PayloadGone,
            NotVerifiable::Lost | NotVerifiable::Class(_) | NotVerifiable::TooOld | NotVerifiable::Engine { .. } => {
                Kind::NotVerifiable
            }
        };
        Self::new(kind, sentence(&error.to_string())).because(error.slug())
    }
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        let detail = format!("{} {}", sentence(&rejection.to_string()), rejection.remedy());
        Self::new(Kind::ModuleRejected, detail).because(rejection.slug())
    }
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Busy => Self::busy(UNAVAILABLE_RETRY_MS),
            QueryError::BrokenOff => Self::unavailable("The query was broken off. Try again after the pause.", error),
            QueryError::Unreadable(error) => Self::internal(error),
            QueryError::SetAside { position, .. } => Self::stream_set_aside(position),
            QueryError::Building { view, position, tail } => {
                let percent = position.get().saturating_mul(100).checked_div(tail.get()).unwrap_or_default().min(99);
                let detail = format!(
                    "This node builds its view of {view} from the log, and has come to {percent} % of it: position {position} of \
                     {tail}. What is recorded is not lost by that. Try again after the pause, or ask another node."
                );
                Self::new(Kind::Unavailable, detail).retry_after_ms(UNAVAILABLE_RETRY_MS).because("view-building")
            }
        }
    }
}

impl From<Behind> for Problem {
    fn from(behind: Behind) -> Self {
        if behind.stopped {
            return Self::unavailable("A view of this node has stopped. Ask another node.", &behind);
        }
        Self::not_there_yet()
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Unavailable(_) => Self::unavailable("The log cannot be read at the moment.", &error),
            ReadError::Damaged { .. } => Self::internal(error),
        }
    }
}

impl From<BlobError> for Problem {
    fn from(error: BlobError) -> Self {
        Self::internal(error)
    }
}

impl Problem {
    fn busy(retry_after_ms: u64) -> Self {
        Self::new(Kind::NodeBusy, "This node has as much to do as it takes. Try again after the pause, or elsewhere.")
            .retry_after_ms(retry_after_ms)
    }

    /// The views have not come as far as the caller wants.
    pub(crate) fn not_there_yet() -> Self {
        let detail = "This node has not reached the position of Wasmwiz-Min-Position yet. Try again after the pause.";
        Self::new(Kind::NotThereYet, detail).retry_after_ms(UNAVAILABLE_RETRY_MS)
    }

    /// The node has just started, and the view of keys is not there yet. Not logged: a client may ask often.
    pub(crate) fn keys_not_known_yet() -> Self {
        let detail = "This node has just started and cannot tell yet which keys are valid. Try again after the pause, or \
             ask another node.";
        Self::new(Kind::Unavailable, detail).retry_after_ms(UNAVAILABLE_RETRY_MS)
    }

    /// The tenant's history cannot be read or understood from some place on: nothing is served from the part before it.
    pub(crate) fn stream_set_aside(position: Position) -> Self {
        let detail = format!(
            "The history of this tenant cannot be read at position {position}, so nothing is answered from it. What is recorded is \
             not lost by that; an operator has to look at the place. Try again after the pause."
        );
        Self::new(Kind::Unavailable, detail).retry_after_ms(SET_ASIDE_RETRY_MS).because("stream-set-aside")
    }

    /// The tenant of the caller's key does not authorise it.
    pub(crate) fn not_authorised(error: AskError) -> Self {
        match error {
            // A tenant forgets keys that were revoked long ago: for who holds one, that is no missing resource.
            AskError::Refused(Refusal::KeyUnknown) => Self::new(Kind::Unauthenticated, UNAUTHENTICATED),
            error => error.into(),
        }
    }

    /// Nobody has told this node yet which keys an issuer signs with.
    pub(crate) fn issuer_unavailable() -> Self {
        let detail = "This node cannot tell at the moment whether the issuer signed this token: it is fetching the issuer's \
             keys. Try again after the pause.";
        Self::new(Kind::IssuerUnavailable, detail).retry_after_ms(UNAVAILABLE_RETRY_MS)
    }

    /// Somebody guesses.
    pub(crate) fn too_many_attempts(retry_after_ms: u64) -> Self {
        let detail = "Too many credentials from this address, or for this key, were not valid. Check the credential, and \
             try again after the pause.";
        Self::new(Kind::TooManyAttempts, detail).retry_after_ms(retry_after_ms)
    }

    /// The host could not do it now, and nothing follows from that.
    fn not_now(why: &str) -> Self {
        Self::new(Kind::Unavailable, sentence(why)).retry_after_ms(UNAVAILABLE_RETRY_MS)
    }

    pub(crate) fn unavailable(detail: &'static str, cause: impl std::fmt::Display) -> Self {
        Self::new(Kind::Unavailable, detail).retry_after_ms(UNAVAILABLE_RETRY_MS).caused_by(cause)
    }
}

/// A refusal's text as a sentence of an answer.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    [first.as_str(), chars.as_str(), "."].concat()
}

#[cfg(test)]
mod tests {
    use wasmwiz_events::{id::RequestId, key::Scope, time::Timestamp};

    use super::*;

    #[test]
    fn a_dead_key_is_not_told_how_it_died() {
        for refusal in [Refusal::KeyRevoked, Refusal::KeyExpired(Timestamp::from_unix_ms(0))] {
            let problem = Problem::from(refusal);
            assert_eq!((problem.kind(), problem.detail()), (Kind::Unauthenticated, UNAUTHENTICATED));
        }
    }

    #[test]
    fn a_key_that_its_tenant_does_not_authorise_is_no_credential() {
        for refusal in [Refusal::KeyUnknown, Refusal::KeyRevoked] {
            assert_eq!(Problem::not_authorised(refusal.into()).kind(), Kind::Unauthenticated);
        }
        let lacking = Refusal::MissingScope(Scope::Operator);
        assert_eq!(Problem::not_authorised(lacking.into()).kind(), Kind::MissingScope);
    }

    #[test]
    fn a_tenant_over_its_rate_is_told_when_to_come_back() {
        let refusal = Refusal::RateLimited { per_minute: 10, retry_after_ms: 5_400 };
        let written = Problem::from(refusal).write("/", &RequestId::new("r").unwrap());
        assert_eq!(written.status(), 429);
        assert_eq!(written.headers()["retry-after"], "6");
        assert_eq!(written.headers()["ratelimit-policy"], "\"executions\";q=10;w=60");
        assert_eq!(written.headers()["ratelimit"], "\"executions\";r=0;t=6");
    }

    #[test]
    fn a_tenant_that_writes_too_often_is_told_which_rate_it_is() {
        let refusal = Refusal::WritesLimited { per_minute: 30, retry_after_ms: 2_000 };
        let written = Problem::from(refusal).write("/", &RequestId::new("r").unwrap());
        assert_eq!((written.status().as_u16(), &written.headers()["retry-after"]), (429, &"2".parse().unwrap()));
        assert_eq!(written.headers()["ratelimit-policy"], "\"writes\";q=30;w=60");
        assert_eq!(written.headers()["ratelimit"], "\"writes\";r=0;t=2");
    }

    #[test]
    fn a_tenant_with_too_much_at_once_is_told_how_much_it_may() {
        let written = Problem::from(Refusal::TooManyConcurrent { limit: 4 }).write("/", &RequestId::new("r").unwrap());
        assert_eq!(written.headers()["ratelimit-policy"], "\"executions-concurrent\";q=4");
        assert_eq!(written.headers()["ratelimit"], "\"executions-concurrent\";r=0;t=1");
    }

    #[test]
    fn a_tenant_is_told_whether_it_helps_to_wait_for_room() {
        let (limit_bytes, left_bytes, needed_bytes) = (9, 1, 2);
        let passes = Refusal::StorageKeptFree { limit_bytes, left_bytes, needed_bytes };
        let stays = Refusal::StorageQuotaExceeded { limit_bytes, left_bytes, needed_bytes };
        for (refusal, retry_after) in [(passes, Some("1")), (stays, None)] {
            let problem = Problem::from(refusal);
            assert_eq!(problem.kind(), Kind::StorageQuotaExceeded);
            let written = problem.write("/", &RequestId::new("r").unwrap());
            let told = written.headers().get("retry-after").map(|value| value.to_str().unwrap());
            assert_eq!((written.status().as_u16(), told), (507, retry_after));
        }
    }

    #[test]
    fn a_tenant_with_too_much_to_compile_is_told_apart_from_a_busy_node() {
        let over = DispatchError::TooManyCompilations { limit: 5, retry_after_ms: 1_000 };
        let written = Problem::from(over).write("/", &RequestId::new("r").unwrap());
        assert_eq!((written.status().as_u16(), &written.headers()["retry-after"]), (429, &"1".parse().unwrap()));
        assert_eq!(written.headers()["ratelimit-policy"], "\"compilations-concurrent\";q=5");
        assert_eq!(Problem::from(DispatchError::Busy { retry_after_ms: 1_000 }).kind().status(), 503);
        let cpu = DispatchError::CompiledTooMuch { ms_per_minute: 10_000, retry_after_ms: 18_001 };
        let written = Problem::from(cpu).write("/", &RequestId::new("r").unwrap());
        assert_eq!((written.status().as_u16(), &written.headers()["retry-after"]), (429, &"19".parse().unwrap()));
        assert_eq!(written.headers()["ratelimit-policy"], "\"compilation-cpu-ms\";q=10000;w=60");
    }

    #[test]
    fn a_tenant_that_has_had_much_kept_for_what_was_refused_is_told_when_that_is_over() {
        let in_vain = DispatchError::KeptInVain { limit_bytes: 7, retry_after_ms: 2_000 };
        let written = Problem::from(in_vain).write("/", &RequestId::new("r").unwrap());
        assert_eq!((written.status().as_u16(), &written.headers()["retry-after"]), (429, &"2".parse().unwrap()));
        assert_eq!(written.headers()["ratelimit-policy"], "\"kept-in-vain-bytes\";q=7;w=3600");
    }

    #[test]
    fn a_refusal_has_the_status_of_its_kind() {
        for (refusal, status) in [
            (Refusal::NotRegistered, 404),
            (Refusal::MissingScope(Scope::KeysManage), 403),
            (Refusal::TooManyKeys { limit: 1 }, 409),
            (Refusal::ModuleTooLarge { limit_bytes: 1 }, 413),
            (Refusal::TooManyConcurrent { limit: 1 }, 429),
            (Refusal::NoScopes, 400),
        ] {
            assert_eq!(Problem::from(refusal.clone()).kind().status(), status, "{refusal:?}");
        }
    }

    #[test]
    fn what_stands_in_the_way_of_the_log_is_not_told() {
        let error = AskError::Unavailable { reason: "disk /x failed".into(), retry_after_ms: 1_000 };
        let problem = Problem::from(error);
        assert!(!problem.detail().contains("disk"));
        assert_eq!(problem.cause(), Some("disk /x failed"));
    }
}
