//! The names of everything that can go wrong for a caller.

macro_rules! error_codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a request was refused or broken off: the `code` that callers are told, and a label of metrics and logs.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[$doc])* $variant,)*
        }

        impl ErrorCode {
            /// All of them, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Returns the code as clients read it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

error_codes! {
    /// No token, a bad or a revoked one, or a disabled user.
    InvalidApiKey = "invalid_api_key",
    /// The token's time is over.
    TokenExpired = "token_expired",
    /// An admin's route, and the caller is none.
    AdminRequired = "admin_required",
    /// The plan has no line for the model's class.
    ModelNotAllowed = "model_not_allowed",
    /// No such model.
    ModelNotFound = "model_not_found",
    /// No such path.
    NotFound = "not_found",
    /// The path has no such method.
    MethodNotAllowed = "method_not_allowed",
    /// The body is no JSON object.
    InvalidJson = "invalid_json",
    /// A field is missing, wrong, doubled or forbidden.
    InvalidValue = "invalid_value",
    /// The body came too slowly.
    RequestTimeout = "request_timeout",
    /// The body is too large.
    RequestTooLarge = "request_too_large",
    /// The body is of another content type.
    UnsupportedMediaType = "unsupported_media_type",
    /// The idempotency key is in use with another body.
    IdempotencyMismatch = "idempotency_mismatch",
    /// Too many requests in a minute, or streams at once.
    RateLimitExceeded = "rate_limit_exceeded",
    /// Used and reserved have reached the limit.
    InsufficientQuota = "insufficient_quota",
    /// The provider refused or answered nonsense.
    ProviderError = "provider_error",
    /// The provider's own rate limit.
    ProviderOverloaded = "provider_overloaded",
    /// More streams run than this process carries.
    Overloaded = "overloaded",
    /// The process is shutting down.
    Draining = "draining",
    /// The quota can't be verified now.
    QuotaUnavailable = "quota_unavailable",
    /// Usage can't be recorded now.
    LedgerUnavailable = "ledger_unavailable",
    /// The provider was too slow.
    ProviderTimeout = "provider_timeout",
    /// A fault of our own.
    InternalError = "internal_error",
}
