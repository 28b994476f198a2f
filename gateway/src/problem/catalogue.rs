//! The catalogue of problems: slug, status and title. Slugs are stable: programs compare them.

use http::StatusCode;

use super::TYPE_PREFIX;

macro_rules! catalogue {
    ($($kind:ident = $status:ident $slug:literal $title:literal;)*) => {
        /// What can be wrong, one variant a problem type.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $(#[doc = $title] $kind,)*
        }

        impl Kind {
            /// All kinds, in the order of the catalogue.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// The last part of the problem's type.
            pub const fn slug(self) -> &'static str {
                match self { $(Self::$kind => $slug),* }
            }

            /// The status of the answer.
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$kind => StatusCode::$status),* }
            }

            /// What it is called. The same for every occurrence.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$kind => $title),* }
            }
        }
    };
}

catalogue! {
    MalformedRequest = BAD_REQUEST "malformed-request" "Malformed request";
    InvalidBody = BAD_REQUEST "invalid-body" "Invalid body";
    EmptyBody = BAD_REQUEST "empty-body" "Empty body";
    InvalidQuery = BAD_REQUEST "invalid-query" "Invalid query parameter";
    InvalidHeader = BAD_REQUEST "invalid-header" "Invalid header";
    InvalidName = BAD_REQUEST "invalid-name" "Invalid name";
    InvalidArguments = BAD_REQUEST "invalid-arguments" "Invalid arguments";
    MalformedCursor = BAD_REQUEST "malformed-cursor" "Malformed cursor";
    MalformedPosition = BAD_REQUEST "malformed-position" "Malformed position";
    BrokenMultipart = BAD_REQUEST "broken-multipart" "Broken multipart body";
    Unauthenticated = UNAUTHORIZED "unauthenticated" "Not authenticated";
    MissingScope = FORBIDDEN "missing-scope" "Missing scope";
    KeyRequired = FORBIDDEN "key-required" "API key required";
    WiderScopes = FORBIDDEN "wider-scopes" "Wider scopes than its issuer";
    NotAnOperator = FORBIDDEN "not-an-operator" "Not an operator";
    HostClockForbidden = FORBIDDEN "host-clock-forbidden" "Host's clocks not allowed";
    TenantSuspended = FORBIDDEN "tenant-suspended" "Tenant suspended";
    NoSuchRoute = NOT_FOUND "no-such-route" "No such route";
    TenantNotFound = NOT_FOUND "tenant-not-found" "Tenant not found";
    KeyNotFound = NOT_FOUND "key-not-found" "Key not found";
    ModuleNotFound = NOT_FOUND "module-not-found" "Module not found";
    VersionNotFound = NOT_FOUND "version-not-found" "Version not found";
    ExecutionNotFound = NOT_FOUND "execution-not-found" "Execution not found";
    PayloadGone = NOT_FOUND "payload-gone" "Payload gone";
    MethodNotAllowed = METHOD_NOT_ALLOWED "method-not-allowed" "Method not allowed";
    NotAcceptable = NOT_ACCEPTABLE "not-acceptable" "Not acceptable";
    BodyTooSlow = REQUEST_TIMEOUT "body-too-slow" "Body too slow";
    TenantExists = CONFLICT "tenant-exists" "Tenant exists";
    SystemTenant = CONFLICT "system-tenant" "System tenant";
    KeyExists = CONFLICT "key-exists" "Key exists";
    KeyNotLive = CONFLICT "key-not-live" "Key not live";
    TooManyKeys = CONFLICT "too-many-keys" "Too many keys";
    TooManyModules = CONFLICT "too-many-modules" "Too many modules";
    TooManyVersions = CONFLICT "too-many-versions" "Too many versions";
    TooManySkips = CONFLICT "too-many-skips" "Too many skipped commits";
    CommitNotSetAside = CONFLICT "commit-not-set-aside" "Commit not set aside";
    NewestCommit = CONFLICT "newest-commit" "Newest commit of its stream";
    ExecutionRunning = CONFLICT "execution-running" "Execution still running";
    ExecutionEnded = CONFLICT "execution-ended" "Execution ended already";
    NotVerifiable = CONFLICT "not-verifiable" "Execution not verifiable";
    ExecutionNotOpen = CONFLICT "execution-not-open" "Execution not open";
    RequestInProgress = CONFLICT "request-in-progress" "Request in progress";
    LengthRequired = LENGTH_REQUIRED "length-required" "Length required";
    PreconditionFailed = PRECONDITION_FAILED "precondition-failed" "Precondition failed";
    BodyTooLarge = PAYLOAD_TOO_LARGE "body-too-large" "Body too large";
    UriTooLong = URI_TOO_LONG "uri-too-long" "URI too long";
    UnsupportedMediaType = UNSUPPORTED_MEDIA_TYPE "unsupported-media-type" "Unsupported media type";
    UnsupportedEncoding = UNSUPPORTED_MEDIA_TYPE "unsupported-encoding" "Unsupported content encoding";
    ModuleRejected = UNPROCESSABLE_ENTITY "module-rejected" "Module rejected";
    HeadersTooLarge = REQUEST_HEADER_FIELDS_TOO_LARGE "headers-too-large" "Header fields too large";
    IdempotencyKeyReused = UNPROCESSABLE_ENTITY "idempotency-key-reused" "Idempotency key reused";
    RateLimited = TOO_MANY_REQUESTS "rate-limited" "Rate limited";
    DailyQuotaUsed = TOO_MANY_REQUESTS "daily-quota-used" "Daily quota used";
    TooManyConcurrent = TOO_MANY_REQUESTS "too-many-concurrent" "Too many concurrent executions";
    TooManyQueued = TOO_MANY_REQUESTS "too-many-queued" "Too many asynchronous executions";
    TooManyStreams = TOO_MANY_REQUESTS "too-many-streams" "Too many streams";
    TooManyCompilations = TOO_MANY_REQUESTS "too-many-compilations" "Too many modules to compile at once";
    TooManyUploads = TOO_MANY_REQUESTS "too-many-uploads" "Too many modules to take in at once";
    TooManyIdempotencyKeys = TOO_MANY_REQUESTS "too-many-idempotency-keys" "Too many idempotency keys";
    TooManyAttempts = TOO_MANY_REQUESTS "too-many-attempts" "Too many failed attempts";
    Internal = INTERNAL_SERVER_ERROR "internal" "Internal error";
    NodeBusy = SERVICE_UNAVAILABLE "node-busy" "Node busy";
    TooManyBodies = SERVICE_UNAVAILABLE "too-many-bodies" "Too many bodies at once";
    TooManyConnections = SERVICE_UNAVAILABLE "too-many-connections" "Too many connections";
    Unavailable = SERVICE_UNAVAILABLE "unavailable" "Unavailable";
    IssuerUnavailable = SERVICE_UNAVAILABLE "issuer-unavailable" "Token issuer unavailable";
    NotThereYet = SERVICE_UNAVAILABLE "not-there-yet" "Position not reached yet";
    NodeStorageFull = INSUFFICIENT_STORAGE "node-storage-full" "Node's storage full";
    StorageQuotaExceeded = INSUFFICIENT_STORAGE "storage-quota-exceeded" "Storage quota exceeded";
    DeadlinePassed = GATEWAY_TIMEOUT "deadline-passed" "Deadline passed";
}

impl Kind {
    /// The problem's type.
    pub fn type_uri(self) -> String {
        [TYPE_PREFIX, self.slug()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slug_names_one_kind() {
        let mut slugs: Vec<_> = Kind::ALL.iter().map(|kind| kind.slug()).collect();
        slugs.sort_unstable();
        slugs.dedup();
        assert_eq!(slugs.len(), Kind::ALL.len());
        assert!(slugs.iter().all(|slug| slug.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')));
    }
}
