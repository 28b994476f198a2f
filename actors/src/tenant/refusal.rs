//! The ways in which a tenant says no.

use serde::{Deserialize, Serialize};
use wasmwiz_events::{key::Scope, settings::Settings, time::Timestamp};

/// Why a command was refused. Nothing is written when it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// No such tenant.
    #[error("there is no tenant with this id; GET /v1/tenants lists those there are")]
    NotRegistered,
    /// There is one already.
    #[error("the tenant is registered already")]
    AlreadyRegistered,
    /// An operator has stopped it.
    #[error("the tenant is suspended; ask the operator of this platform to resume it")]
    Suspended,
    /// Nobody could resume it: its keys are the operators'.
    #[error("the system tenant holds the operators' keys and cannot be suspended; revoke single keys instead")]
    SystemTenant,
    /// A name that is empty, too long, or holds control characters.
    #[error("a name has 1 to 100 characters and no control characters")]
    InvalidName,
    /// The key is not one of this tenant's.
    #[error("there is no key with this id; GET /v1/keys lists those there are")]
    KeyUnknown,
    /// The key was revoked.
    #[error("the key was revoked; use another, or issue a new one")]
    KeyRevoked,
    /// The key has expired.
    #[error("the key expired at {0}; use another, or issue a new one")]
    KeyExpired(Timestamp),
    /// The key may not do this.
    #[error("the key lacks the scope {0}; use a key that has it")]
    MissingScope(#[serde(with = "crate::codec::scope")] Scope),
    /// A credential can never mint a wider one.
    #[error(
        "a key cannot issue, or give a new secret to, one with scopes that it lacks itself; ask for fewer, or use a key that has them"
    )]
    WiderScopes,
    /// A key without scopes could do nothing.
    #[error("a key needs at least one scope")]
    NoScopes,
    /// The key would be dead at birth.
    #[error("expires_at must lie in the future")]
    ExpiresInThePast,
    /// The id was drawn before; the caller draws another.
    #[error("a key with this id exists already")]
    KeyExists,
    /// The key does not work any more, so that a new secret would not either.
    #[error("the key was revoked or has expired and gets no new secret; issue another")]
    KeyNotLive,
    /// The old secret would work for too long.
    #[error("an old secret may go on working for {limit_seconds} seconds at most; ask for less")]
    GraceTooLong {
        /// The most.
        limit_seconds: u64,
    },
    /// Too many live keys.
    #[error("the tenant has {limit} live keys, which is the most; revoke some first")]
    TooManyKeys {
        /// The most.
        limit: u32,
    },
    /// No live module of that name.
    #[error("there is no module of this name; PUT /v1/modules/{{name}} publishes one")]
    ModuleUnknown,
    /// The module has no such version.
    #[error("the module has no version {version}; its latest is {latest}")]
    VersionUnknown {
        /// The version asked for.
        version: u32,
        /// The latest there is.
        latest: u32,
    },
    /// Too many module names.
    #[error("the tenant has {limit} modules, which is the most; delete some first")]
    TooManyModules {
        /// The most.
        limit: u32,
    },
    /// Too many module names were ever used.
    #[error(
        "the tenant has used {limit} module names, deleted ones among them, which is the most that is remembered; publish \
         under a name that was used before"
    )]
    TooManyModuleNames {
        /// The most.
        limit: u32,
    },
    /// Too many versions of one module, or live ones of all modules together. One refusal for both, as nodes of before read no other.
    #[error(
        "the module, or all modules of the tenant together, have {limit} versions, which is the most; delete modules that are \
         not needed any more"
    )]
    TooManyVersions {
        /// The most.
        limit: u32,
    },
    /// Larger than the tier allows.
    #[error("the module is larger than the {limit_bytes} bytes that the tenant's tier allows")]
    ModuleTooLarge {
        /// The limit.
        limit_bytes: u64,
    },
    /// Larger than the tier allows.
    #[error("standard input is larger than the {limit_bytes} bytes that the tenant's tier allows")]
    StdinTooLarge {
        /// The limit.
        limit_bytes: u64,
    },
    /// Too many or too long arguments.
    #[error("an execution takes at most {count} arguments of {bytes} bytes together, none with a NUL character")]
    BadArguments {
        /// The most arguments.
        count: usize,
        /// The most bytes.
        bytes: usize,
    },
    /// Only a tenant's own key runs modules.
    #[error("executions are started with a key of the tenant")]
    NotAKey,
    /// The rate bucket is empty.
    #[error("the tenant's tier allows {per_minute} executions a minute; try again later")]
    RateLimited {
        /// The average allowed.
        per_minute: u32,
        /// When the next token is there, in milliseconds from now.
        retry_after_ms: u64,
    },
    /// The bucket of what keys write is empty.
    #[error("the tenant's tier allows its keys {per_minute} changes of keys and modules a minute; try again later")]
    WritesLimited {
        /// The average allowed.
        per_minute: u32,
        /// When the next token is there, in milliseconds from now.
        retry_after_ms: u64,
    },
    /// The day's quota is used up.
    #[error("the tenant's tier allows {per_day} executions a day; the next day begins at 00:00 UTC")]
    DailyQuotaUsed {
        /// The most a day.
        per_day: u64,
        /// When the next day begins, in milliseconds from now.
        retry_after_ms: u64,
    },
    /// As many are open as may be.
    #[error("the tenant's tier allows {limit} executions at the same time; wait for one to end")]
    TooManyConcurrent {
        /// The most at a time.
        limit: u32,
    },
    /// The key was sent with another request.
    #[error(
        "the idempotency key was sent with another request within the last 24 hours; draw a new key for each request"
    )]
    IdempotencyKeyReused,
    /// As many requests are remembered as may be.
    #[error(
        "the tenant has {limit} idempotency keys of the last 24 hours, which is the most that is remembered; send the \
         request without one, or later"
    )]
    TooManyIdempotencyKeys {
        /// The most.
        limit: u32,
        /// When the oldest is forgotten, in milliseconds from now.
        retry_after_ms: u64,
    },
    /// Denials were written down less than a minute ago.
    #[error("denials were written down less than a minute ago; count on and come again")]
    DenialsRecordedLately {
        /// When they may be, in milliseconds from now.
        retry_after_ms: u64,
    },
    /// Something has come in between.
    #[error("what is to be changed is not as its If-Match says any more; read it again, and decide again")]
    Stale,
    /// As many asynchronous executions wait or run as may.
    #[error("the tenant's tier allows {limit} asynchronous executions that have not ended; wait for one to end")]
    TooManyQueued {
        /// The most that wait or run.
        limit: u32,
    },
    /// Whoever asked does not wait any more.
    #[error("its deadline passed before the execution could begin; nothing ran: try again with a larger timeout_ms")]
    DeadlinePassed,
    /// It is not waiting for its turn.
    #[error("the execution runs already; wait for its end, or cancel it")]
    ExecutionStarted,
    /// It never began, or it has its terminal event already.
    #[error("the execution is not open")]
    ExecutionNotOpen,
    /// Another attempt is the current one.
    #[error("attempt {offered} of the execution is not the current one")]
    StaleAttempt {
        /// The attempt that reported.
        offered: u32,
    },
    /// The version runs in another way than its runner has prepared for. It prepares for this one, and asks again.
    #[error("the version has other settings than the execution was prepared for; send the request again")]
    OtherSettings(#[serde(with = "crate::codec::json")] Settings),
    /// Guests of the tenant read no clocks of the host.
    #[error(
        "the tenant's tier does not allow modules that read the host's clocks; publish the module with clock=virtual, or ask the \
         platform's operator for another tier"
    )]
    HostClockForbidden,
    /// Not in this stream, or not of it. This one and the two behind it answer `SkipCommit` alone: who sends that can read them.
    #[error(
        "the stream of the system tenant cannot be skipped past: it holds the operators' keys; restore it from a backup"
    )]
    NotSkippable,
    /// A reason that is empty, too long, or holds control characters.
    #[error("a reason has 1 to 500 characters and no control characters")]
    InvalidReason,
    /// More places were skipped than anybody looks at.
    #[error("{limit} commits were skipped, which is the most that is remembered; restore the log from a backup")]
    TooManySkips {
        /// The most.
        limit: usize,
    },
    /// There is no room for what is asked for. This one and the one behind it stand last, so that nodes of before read all others.
    #[error(
        "the tenant's tier lets it store {limit_bytes} bytes, of which {left_bytes} are neither stored nor kept free for what open \
         executions may write, and this may store {needed_bytes}; ask the platform's operator for more"
    )]
    StorageQuotaExceeded {
        /// The most that the tenant may store.
        limit_bytes: u64,
        /// What is left of it.
        left_bytes: u64,
        /// What this would store at most.
        needed_bytes: u64,
    },
    /// There is no room for it while others are open.
    #[error(
        "the tenant's tier lets it store {limit_bytes} bytes, of which {left_bytes} are neither stored nor kept free for what open \
         executions may write, and this may store {needed_bytes}; there is room for it once some of them have ended, try again then"
    )]
    StorageKeptFree {
        /// The most that the tenant may store.
        limit_bytes: u64,
        /// What is left of it, beside what is kept free.
        left_bytes: u64,
        /// What this would store at most.
        needed_bytes: u64,
    },
}

impl Refusal {
    /// Is it a word between nodes, after which the same is asked for again, and no refusal of what a caller wants?
    pub(crate) const fn is_asked_again(&self) -> bool {
        matches!(self, Self::OtherSettings(_))
    }
}
