//! The values that labels can have: closed sets, so that no client can make the metrics grow.

use crate::{
    domain::{ErrorCode, Finished, Outcome},
    stats::Stage,
};

/// A closed set of label values: an enum, a pair of enums, or nothing.
pub(super) trait Labels: Copy {
    /// The labels' names.
    fn names() -> Vec<&'static str>;
    /// All values there are, in the order of their indices.
    fn all() -> impl Iterator<Item = Self>;
    /// The texts, one for each name.
    fn values(self) -> Vec<&'static str>;
    /// The place of this value among all.
    fn index(self) -> usize;
}

impl Labels for () {
    fn names() -> Vec<&'static str> {
        Vec::new()
    }
    fn all() -> impl Iterator<Item = Self> {
        std::iter::once(())
    }
    fn values(self) -> Vec<&'static str> {
        Vec::new()
    }
    fn index(self) -> usize {
        0
    }
}

impl<A: Labels, B: Labels> Labels for (A, B) {
    fn names() -> Vec<&'static str> {
        [A::names(), B::names()].concat()
    }
    fn all() -> impl Iterator<Item = Self> {
        A::all().flat_map(|a| B::all().map(move |b| (a, b)))
    }
    fn values(self) -> Vec<&'static str> {
        [self.0.values(), self.1.values()].concat()
    }
    fn index(self) -> usize {
        self.0.index() * B::all().count() + self.1.index()
    }
}

macro_rules! label {
    ($type:ty, $name:literal, $all:expr, $text:expr) => {
        impl Labels for $type {
            fn names() -> Vec<&'static str> {
                vec![$name]
            }
            fn all() -> impl Iterator<Item = Self> {
                $all.into_iter()
            }
            fn values(self) -> Vec<&'static str> {
                let text: fn(Self) -> &'static str = $text;
                vec![text(self)]
            }
            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

macro_rules! labels {
    ($($(#[$doc:meta])* $vis:vis $type:ident = $name:literal { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq)]
            $vis enum $type {
                $($(#[$variant_doc])* $variant,)*
            }

            impl std::fmt::Display for $type {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str(match self {
                        $(Self::$variant => $text,)*
                    })
                }
            }

            label!($type, $name, [$(Self::$variant),*], |value| match value {
                $(Self::$variant => $text,)*
            });
        )*
    };
}

label!(ErrorCode, "code", Self::ALL.iter().copied(), Self::as_str);
label!(Outcome, "outcome", Self::ALL, Self::as_str);
label!(Stage, "stage", Self::ALL, Self::as_str);
label!(bool, "ok", [false, true], |ok| if ok { "true" } else { "false" });

/// How a request ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// It was never admitted.
    Refused,
    /// It was a repeat, and read another one's answer.
    Joined,
    /// As it is posted.
    Posted(Outcome),
}

impl End {
    pub(super) fn of(finished: &Finished) -> Self {
        match finished.outcome {
            Some(outcome) => Self::Posted(outcome),
            None if finished.joined => Self::Joined,
            None => Self::Refused,
        }
    }
}

impl Labels for End {
    fn names() -> Vec<&'static str> {
        Outcome::names()
    }
    fn all() -> impl Iterator<Item = Self> {
        [Self::Refused, Self::Joined].into_iter().chain(Outcome::ALL.into_iter().map(Self::Posted))
    }
    fn values(self) -> Vec<&'static str> {
        vec![match self {
            Self::Refused => "refused",
            Self::Joined => "joined",
            Self::Posted(outcome) => outcome.as_str(),
        }]
    }
    fn index(self) -> usize {
        match self {
            Self::Refused => 0,
            Self::Joined => 1,
            Self::Posted(outcome) => 2 + outcome.index(),
        }
    }
}

labels! {
    /// Where the figures of a posting come from.
    pub(super) Source = "source" {
        /// The provider's usage.
        Reported = "reported",
        /// Our estimate.
        Estimated = "estimated",
    }

    /// Who asked for a lease back.
    pub(super) Recaller = "by" {
        /// This instance.
        Here = "here",
        /// Another one.
        Elsewhere = "elsewhere",
    }

    /// What tokens were for.
    pub(super) TokenKind = "kind" {
        /// What the client sent.
        Prompt = "prompt",
        /// What the model wrote.
        Completion = "completion",
    }

    /// Who knew the caller.
    pub AuthLevel = "level" {
        /// The worker's own memory.
        Memory = "l1",
        /// The shared cache.
        Shared = "l2",
        /// The store.
        Store = "l3",
        /// Nobody: the caller was refused.
        Refused = "refused",
    }

    /// How a call to the shared cache went.
    pub CacheCall = "result" {
        /// It had an answer, or took the value.
        Ok = "ok",
        /// It had none.
        Miss = "miss",
        /// It failed or was too slow.
        Failed = "failed",
        /// It was not called, because its breaker is open or there is no connection.
        Open = "open",
        /// It was not sent a value, because too many wait.
        Full = "full",
    }

    /// A call to the store, named after the method of its port.
    pub StoreOp = "op" {
        /// Finding a user.
        Caller = "caller",
        /// Adding a user.
        Provision = "provision",
        /// Finding an API key.
        Key = "key",
        /// Noting when keys were used.
        TouchKeys = "touch_keys",
        /// Reading revoked tokens.
        RevokedTokens = "revoked_tokens",
        /// Reading the change sequence.
        Changes = "changes",
        /// Reading models, classes and plans.
        Catalog = "catalog",
        /// Applying a batch of postings.
        Apply = "apply",
        /// Reading cursors of journals.
        Cursors = "cursors",
        /// Lending, taking back, and reading totals.
        Exchange = "exchange",
        /// Asking leases back.
        Recall = "recall",
        /// Telling that the instance lives.
        Heartbeat = "heartbeat",
        /// Anything an operator or a report asks.
        Other = "other",
    }

    /// What a connection of the pool does.
    pub(super) PoolState = "state" {
        /// It waits.
        Idle = "idle",
        /// It is in use.
        Active = "active",
    }

    /// Why an attempt at a provider failed.
    pub Failure = "reason" {
        /// No connection, or none in time.
        Connect = "connect",
        /// The connection broke before or in the answer.
        Broken = "broken",
        /// A deadline passed.
        Timeout = "timeout",
        /// Its rate limit.
        RateLimited = "rate_limited",
        /// Another status than 200.
        Status = "status",
        /// An error object in a stream.
        ErrorFrame = "error_frame",
        /// What came was no answer, or a frame too long.
        Nonsense = "nonsense",
        /// Not tried, because the breaker is open.
        BreakerOpen = "breaker_open",
    }

    /// Which ceiling a request met.
    pub QuotaRefusal = "reason" {
        /// The plan has no line for the class.
        NotAllowed = "not_allowed",
        /// Requests of the window.
        Requests = "requests",
        /// Tokens of the window.
        Tokens = "tokens",
        /// Cost of the window.
        Cost = "cost",
        /// Requests in a minute.
        Rate = "rate",
        /// Streams at once.
        Concurrency = "concurrency",
        /// The quota can't be verified now.
        Unavailable = "unavailable",
    }

    /// What was read anew while running.
    pub Reload = "what" {
        /// Models, classes and plans.
        Catalog = "catalog",
        /// Keys that tokens are verified with.
        Keys = "keys",
        /// Users, keys and revocations that changed.
        Changes = "changes",
    }

    /// What memory is counted.
    pub(super) MemoryKind = "kind" {
        /// Handed out by the allocator.
        Allocated = "allocated",
        /// Pages that the process holds.
        Resident = "resident",
    }
}
