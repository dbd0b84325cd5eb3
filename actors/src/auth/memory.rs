//! What a worker remembers: tokens that were let in, their users, and refusals. Time is an argument.

use std::{
    cell::Cell,
    collections::HashSet,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Answer, AuthError,
    table::{Recency, Table},
    touches::{Noted, Touches},
};
use crate::{
    domain::{Caller, CallerRecord, Role, Timestamp, TokenHash, UserId},
    ports::Change,
    registry::{News, Reader},
};

/// The longest that a token or a user is remembered.
pub(super) const LIFE: Duration = Duration::from_secs(600);
/// How long a refusal is remembered, so that a change holds within a second.
pub(super) const REFUSAL_LIFE: Duration = Duration::from_millis(500);
/// The most refusals that are remembered; the oldest go first.
pub(super) const MAX_REFUSALS: usize = 4_096;

/// Three bounded tables that follow the change feed.
pub(super) struct Memory {
    news: Reader,
    tokens: Table<TokenHash, Known>,
    users: Table<UserId, Rc<User>>,
    refusals: Table<TokenHash, Refusal>,
    /// When API keys were used.
    pub(super) touches: Touches,
}

/// A token that was let in.
pub(super) struct Known {
    pub(super) caller: Arc<Caller>,
    pub(super) kind: Kind,
    user: Rc<User>,
    until: Instant,
    expires_at: Timestamp,
    used: Cell<bool>,
}

/// What kind of token it is.
pub(super) enum Kind {
    Key(Noted),
    /// With the hash of what was signed.
    Jwt {
        signed: TokenHash,
    },
}

/// A user, shared by all their tokens: when the user goes, the tokens are worth nothing, without being looked for.
pub(super) struct User {
    caller: Arc<Caller>,
    until: Instant,
    live: Cell<bool>,
    used: Cell<bool>,
}

struct Refusal {
    error: AuthError,
    until: Instant,
}

impl Memory {
    /// Remembers nothing yet.
    pub(super) fn new(entries: usize, news: Reader) -> Self {
        let (tokens, users) = (Table::new(entries), Table::new(entries));
        Self { news, tokens, users, refusals: Table::new(MAX_REFUSALS), touches: Touches::default() }
    }

    /// Forgets what was changed since the last call. To be called before anything else is asked.
    #[inline]
    pub(super) fn follow_feed(&mut self) {
        match self.news.news() {
            News::Nothing => {}
            News::Changes(changes) => self.forget(changes),
            News::Everything => {
                self.tokens.drain().for_each(drop);
                self.refusals.drain().for_each(drop);
                self.users.drain().for_each(|user| user.live.set(false));
            }
        }
    }

    /// Finds out whose token this is, where that is known and nothing else is to be done.
    pub(super) fn recall(&mut self, hash: &TokenHash, now: Instant, wall: Timestamp) -> Option<Arc<Caller>> {
        self.follow_feed();
        let known = self.known(hash, now, wall)?;
        match &known.kind {
            Kind::Key(noted) if !self.touches.has(noted) => None,
            Kind::Key(_) | Kind::Jwt { .. } => Some(Arc::clone(&known.caller)),
        }
    }

    /// Returns some caller. A mutant takes everybody for that one.
    pub(super) fn anybody(&self) -> Option<Arc<Caller>> {
        self.tokens.first().map(|known| Arc::clone(&known.caller))
    }

    /// Notes that a token was used now, if it is a key. Returns whether a round has to be scheduled.
    pub(super) fn note_use(&mut self, hash: &TokenHash, wall: Timestamp) -> bool {
        match self.tokens.get(hash).map(|known| &known.kind) {
            Some(Kind::Key(noted)) => self.touches.note(*hash, noted, wall),
            Some(Kind::Jwt { .. }) | None => false,
        }
    }

    /// Finds a token that was let in and still may be. One that may not stays until it is replaced or has to go.
    pub(super) fn known(&self, hash: &TokenHash, now: Instant, wall: Timestamp) -> Option<&Known> {
        let known = self.tokens.get(hash).filter(|known| known.holds(now, wall))?;
        known.used.set(true);
        known.user.used.set(true);
        Some(known)
    }

    /// Finds out whether a token was refused just now.
    pub(super) fn refusal(&self, hash: &TokenHash, now: Instant) -> Option<Answer> {
        self.refusals.get(hash).filter(|refusal| now < refusal.until).map(|refusal| Err(refusal.error))
    }

    /// Finds a user.
    pub(super) fn user(&self, id: &UserId, now: Instant) -> Option<Rc<User>> {
        self.users.get(id).filter(|user| now < user.until).map(Rc::clone)
    }

    /// Remembers a user.
    pub(super) fn add_user(&mut self, record: CallerRecord, now: Instant) -> Rc<User> {
        let CallerRecord { key, id, role, plan, .. } = record;
        let user = Rc::new(User {
            caller: Arc::new(Caller { key, id: id.clone(), role, plan }),
            until: now + LIFE,
            live: Cell::new(true),
            used: Cell::new(true),
        });
        if let Some(gone) = self.users.insert(id, Rc::clone(&user)) {
            gone.live.set(false);
        }
        user
    }

    /// Remembers a token; its `role` can raise the user's. No longer than the user, nor than `rest`, the token's own.
    pub(super) fn add_token(
        &mut self,
        hash: TokenHash,
        (kind, role): (Kind, Option<Role>),
        user: Rc<User>,
        (expires_at, until): (Timestamp, Instant),
    ) -> Arc<Caller> {
        let caller = user.caller_as(role);
        let until = until.min(user.until);
        let known = Known { caller: Arc::clone(&caller), kind, user, until, expires_at, used: Cell::new(true) };
        self.tokens.insert(hash, known);
        caller
    }

    /// Remembers for a moment that a token was refused.
    pub(super) fn add_refusal(&mut self, hash: TokenHash, error: AuthError, now: Instant) {
        self.refusals.insert(hash, Refusal { error, until: now + REFUSAL_LIFE });
    }

    fn forget(&mut self, changes: Vec<Change>) {
        let mut revoked = HashSet::new();
        for change in changes {
            match change {
                Change::User(id) => {
                    if let Some(user) = self.users.remove(&id) {
                        user.live.set(false);
                    }
                }
                Change::Key(key) => {
                    self.tokens.remove(&key);
                    self.refusals.remove(&key);
                }
                Change::Token(token, _) => drop(revoked.insert(token)),
                Change::Catalog | Change::Recall(_) => {}
            }
        }
        if !revoked.is_empty() {
            self.tokens.remove_where(|hash, known| {
                revoked.contains(hash) || matches!(&known.kind, Kind::Jwt { signed } if revoked.contains(signed))
            });
        }
    }
}

impl Known {
    fn holds(&self, now: Instant, wall: Timestamp) -> bool {
        self.user.live.get() && now < self.until && wall < self.expires_at
    }
}

impl User {
    /// Returns the caller with the stronger of both roles.
    fn caller_as(&self, role: Option<Role>) -> Arc<Caller> {
        match (self.caller.role, role) {
            (Role::User, Some(Role::Admin)) => Arc::new(Caller { role: Role::Admin, ..(*self.caller).clone() }),
            _ => Arc::clone(&self.caller),
        }
    }
}

impl Recency for Known {
    fn take_used(&self) -> bool {
        self.used.replace(false)
    }
}

impl Recency for Rc<User> {
    fn take_used(&self) -> bool {
        self.used.replace(false)
    }
}

/// Refusals go in the order in which they came.
impl Recency for Refusal {
    fn take_used(&self) -> bool {
        false
    }
}
