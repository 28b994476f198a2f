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
    WiderScopes = FORBIDDEN "wider-scopes" "Wider scopes than its issuer";
    NotAnOperator = FORBIDDEN "not-an-operator" "Not an operator";
    TenantSuspended = FORBIDDEN "tenant-suspended" "Tenant suspended";
    NoSuchRoute = NOT_FOUND "no-such-route" "No such route";
    TenantNotFound = NOT_FOUND "tenant-not-found" "Tenant not found";
    KeyNotFound = NOT_FOUND "key-not-found" "Key not found";
    ModuleNotFound = NOT_FOUND "module-not-found" "Module not found";
    VersionNotFound = NOT_FOUND "version-not-found" "Version not found";
    ExecutionNotFound = NOT_FOUND "execution-not-found" "Execution not found";
    PayloadGone = NOT_FOUND "payload-gone" "Payload gone";
    MethodNotAllowed = METHOD_NOT_ALLOWED "method-not-allowed" "Method not allowed";
    BodyTooSlow = REQUEST_TIMEOUT "body-too-slow" "Body too slow";
    TenantExists = CONFLICT "tenant-exists" "Tenant exists";
    SystemTenant = CONFLICT "system-tenant" "System tenant";
    KeyExists = CONFLICT "key-exists" "Key exists";
    TooManyKeys = CONFLICT "too-many-keys" "Too many keys";
    TooManyModules = CONFLICT "too-many-modules" "Too many modules";
    TooManyVersions = CONFLICT "too-many-versions" "Too many versions";
    ExecutionRunning = CONFLICT "execution-running" "Execution still running";
    ExecutionNotOpen = CONFLICT "execution-not-open" "Execution not open";
    LengthRequired = LENGTH_REQUIRED "length-required" "Length required";
    BodyTooLarge = PAYLOAD_TOO_LARGE "body-too-large" "Body too large";
    UnsupportedMediaType = UNSUPPORTED_MEDIA_TYPE "unsupported-media-type" "Unsupported media type";
    ModuleRejected = UNPROCESSABLE_ENTITY "module-rejected" "Module rejected";
    RateLimited = TOO_MANY_REQUESTS "rate-limited" "Rate limited";
    DailyQuotaUsed = TOO_MANY_REQUESTS "daily-quota-used" "Daily quota used";
    TooManyConcurrent = TOO_MANY_REQUESTS "too-many-concurrent" "Too many concurrent executions";
    TooManyCompilations = TOO_MANY_REQUESTS "too-many-compilations" "Too many modules to compile at once";
    Internal = INTERNAL_SERVER_ERROR "internal" "Internal error";
    NodeBusy = SERVICE_UNAVAILABLE "node-busy" "Node busy";
    TooManyBodies = SERVICE_UNAVAILABLE "too-many-bodies" "Too many bodies at once";
    TooManyConnections = SERVICE_UNAVAILABLE "too-many-connections" "Too many connections";
    Unavailable = SERVICE_UNAVAILABLE "unavailable" "Unavailable";
    NotThereYet = SERVICE_UNAVAILABLE "not-there-yet" "Position not reached yet";
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
