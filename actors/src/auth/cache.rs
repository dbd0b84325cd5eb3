//! The actor: looks into its memory, and sends out flights for what isn't there.

use std::{
    cell::RefCell,
    collections::HashMap,
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{self, Poll},
};

use actix::{Actor, ActorFuture, AsyncContext, Context, Handler, Message, ResponseFuture};
use tokio::task::JoinSet;

use super::{
    Answer, AuthError, Config, Ports, Provision,
    lookup::{self, Identity, Source, Unknown},
    memory::{Kind, LIFE, Memory, User},
    touches::{self, Noted},
};
use crate::{
    domain::{CallerRecord, Timestamp, TokenHash, UserId},
    metrics::AuthLevel,
    registry::Revocation,
    reply::{Reply, Waiters},
};

/// Questions that wait; beyond them, askers wait for room.
const MAILBOX: usize = 1_024;
/// The most tokens that are looked up at once.
pub(super) const MAX_FLIGHTS: usize = 4_096;

/// Asks whose token this is; answered when it is known.
pub(super) struct Resolve {
    pub(super) hash: TokenHash,
    pub(super) token: Box<str>,
}

impl Message for Resolve {
    type Result = Answer;
}

/// Brings what is noted of keys' uses to the store, without waiting for the round; answered when that is done or failed.
pub(super) struct BringTouches;

impl Message for BringTouches {
    type Result = ();
}

/// What this worker knows of callers, and what it is finding out.
pub(super) struct AuthCache {
    ports: Ports,
    provision: Provision,
    /// Filled here only. The handle looks into it as well, and forgets what the feed says has changed.
    memory: Rc<RefCell<Memory>>,
    token_flights: HashMap<TokenHash, TokenFlight>,
    user_flights: HashMap<UserId, UserFlight>,
    flights: JoinSet<Landing>,
}

struct TokenFlight {
    waiters: Waiters<Answer>,
    /// Known once the token is verified and its user is being looked up.
    identity: Option<Identity>,
}

struct UserFlight {
    tokens: Vec<TokenHash>,
    /// The feed's edition at the start.
    edition: u64,
    unknown: Unknown,
}

/// What a flight brings home.
enum Landing {
    Identity(TokenHash, Result<Identity, AuthError>),
    User(UserId, Result<Option<CallerRecord>, AuthError>),
    TouchDue,
    Touched(Result<(), Vec<(TokenHash, Timestamp)>>),
}

impl AuthCache {
    pub(super) fn new(config: &Config, ports: Ports, memory: Rc<RefCell<Memory>>) -> Self {
        Self {
            provision: config.provision,
            memory,
            token_flights: HashMap::new(),
            user_flights: HashMap::new(),
            flights: JoinSet::new(),
            ports,
        }
    }

    fn recall(&mut self, hash: &TokenHash) -> Option<Answer> {
        let (now, wall) = self.ports.clock.both();
        let mut memory = self.memory.borrow_mut();
        memory.follow_feed();
        let Some(caller) = memory.known(hash, now, wall).map(|known| Arc::clone(&known.caller)) else {
            let refusal = memory.refusal(hash, now);
            if refusal.is_some() {
                self.ports.metrics.auth_looked_up(AuthLevel::Refused);
            }
            return refusal;
        };
        let due = memory.note_use(hash, wall);
        drop(memory);
        self.ports.metrics.auth_looked_up(AuthLevel::Memory);
        if due {
            self.schedule_touches();
        }
        Some(Ok(caller))
    }

    fn resolve(&mut self, hash: TokenHash, token: Box<str>) -> Reply<Answer> {
        if let Some(answer) = self.recall(&hash) {
            return Reply::Now(answer);
        }
        if let Some(flight) = self.token_flights.get(&hash) {
            self.ports.metrics.auth_coalesced();
            return Reply::Later(flight.waiters.clone());
        }
        if self.token_flights.len() >= MAX_FLIGHTS {
            return Reply::Now(Err(AuthError::Unavailable));
        }
        let waiters = Waiters::default();
        self.token_flights.insert(hash, TokenFlight { waiters: waiters.clone(), identity: None });
        if lookup::is_key(&token) {
            self.identify_key(hash);
        } else {
            let ports = self.ports.clone();
            self.fly(async move {
                Landing::Identity(hash, lookup::guarded(&ports, lookup::identify_jwt(&ports, &token)).await)
            });
        }
        Reply::Later(waiters)
    }

    fn identify_key(&mut self, hash: TokenHash) {
        let ports = self.ports.clone();
        self.fly(
            async move { Landing::Identity(hash, lookup::guarded(&ports, lookup::identify_key(&ports, &hash)).await) },
        );
    }

    fn find_user(&mut self, user: UserId, tokens: Vec<TokenHash>, unknown: Unknown) {
        let flight = UserFlight { tokens, edition: self.ports.feed.edition(), unknown: unknown.clone() };
        self.user_flights.insert(user.clone(), flight);
        let ports = self.ports.clone();
        self.fly(async move {
            let found = lookup::guarded(&ports, lookup::find_user(&ports, &user, unknown)).await;
            Landing::User(user, found)
        });
    }

    fn fly(&mut self, flight: impl Future<Output = Landing> + 'static) {
        self.flights.spawn_local(flight);
    }

    fn land(&mut self, landing: Landing) {
        self.memory.borrow_mut().follow_feed();
        match landing {
            Landing::Identity(hash, Ok(identity)) => self.land_identity(hash, identity),
            Landing::Identity(hash, Err(error)) => self.refuse(hash, error),
            Landing::User(user, found) => self.land_user(user, found),
            Landing::TouchDue => self.bring_touches(),
            Landing::Touched(Ok(())) => {}
            Landing::Touched(Err(used)) => {
                let due = self.memory.borrow_mut().touches.give_back(used);
                if due {
                    self.schedule_touches();
                }
            }
        }
    }

    fn land_identity(&mut self, hash: TokenHash, identity: Identity) {
        let user = self.memory.borrow().user(&identity.user, self.ports.clock.now());
        if let Some(user) = user {
            return self.admit(hash, identity, user);
        }
        let (id, unknown) = (identity.user.clone(), self.if_unknown(&identity));
        let Some(flight) = self.token_flights.get_mut(&hash) else { return };
        flight.identity = Some(identity);
        if let Some(flight) = self.user_flights.get_mut(&id) {
            flight.tokens.push(hash);
        } else {
            self.find_user(id, vec![hash], unknown);
        }
    }

    fn land_user(&mut self, id: UserId, found: Result<Option<CallerRecord>, AuthError>) {
        let Some(flight) = self.user_flights.remove(&id) else { return };
        match found {
            // A change overtook the look-up: what it brought may be what was before.
            Ok(_) if self.ports.feed.user_changed_since(&id, flight.edition) => {
                self.find_user(id, flight.tokens, flight.unknown);
            }
            Ok(Some(record)) if record.disabled => self.refuse_all(flight.tokens, AuthError::Disabled),
            Ok(Some(record)) => self.admit_all(record, flight.tokens),
            Ok(None) => self.refuse_or_add(id, flight),
            Err(error) => self.refuse_all(flight.tokens, error),
        }
    }

    fn admit_all(&mut self, record: CallerRecord, tokens: Vec<TokenHash>) {
        let user = self.memory.borrow_mut().add_user(record, self.ports.clock.now());
        for hash in tokens {
            let identity = self.token_flights.get_mut(&hash).and_then(|flight| flight.identity.take());
            if let Some(identity) = identity {
                self.admit(hash, identity, Rc::clone(&user));
            }
        }
    }

    /// Lets a token in, unless it was revoked while its user was looked up.
    fn admit(&mut self, hash: TokenHash, identity: Identity, user: Rc<User>) {
        let feed = &self.ports.feed;
        let (kind, role) = match identity.source {
            Source::Key if feed.key_changed_since(&hash, identity.edition) => return self.identify_key(hash),
            Source::Key => (Kind::Key(Noted::default()), None),
            Source::Jwt { role, signed, .. } => match (feed.revocation(&hash), feed.revocation(&signed)) {
                (Revocation::None, Revocation::None) => (Kind::Jwt { signed }, role),
                (Revocation::Revoked, _) | (_, Revocation::Revoked) => return self.refuse(hash, AuthError::Revoked),
                _ => return self.refuse(hash, AuthError::Unavailable),
            },
        };
        let (now, wall) = self.ports.clock.both();
        let expires_at = identity.expires_at.unwrap_or(Timestamp(i64::MAX));
        let rest = expires_at.since(wall);
        if rest.is_zero() {
            return self.refuse(hash, AuthError::Expired);
        }
        let mut memory = self.memory.borrow_mut();
        let caller = memory.add_token(hash, (kind, role), user, (expires_at, now + rest.min(LIFE)));
        let due = memory.note_use(&hash, wall);
        drop(memory);
        if due {
            self.schedule_touches();
        }
        self.finish(hash, &Ok(caller));
    }

    /// Nobody knows the user. A look-up for an API key doesn't add users; JWTs that had joined it may.
    fn refuse_or_add(&mut self, id: UserId, flight: UserFlight) {
        let (mut adding, mut plan) = (Vec::new(), Unknown::Leave);
        for hash in flight.tokens {
            let identity = self.token_flights.get(&hash).and_then(|flight| flight.identity.as_ref());
            match identity.map_or(Unknown::Leave, |identity| self.if_unknown(identity)) {
                Unknown::Add(named) if flight.unknown == Unknown::Leave => {
                    adding.push(hash);
                    plan = Unknown::Add(named);
                }
                _ => self.refuse(hash, AuthError::Invalid),
            }
        }
        if !adding.is_empty() {
            self.find_user(id, adding, plan);
        }
    }

    fn if_unknown(&self, identity: &Identity) -> Unknown {
        match (&identity.source, self.provision) {
            (Source::Jwt { plan, .. }, Provision::DefaultPlan) => Unknown::Add(plan.clone()),
            _ => Unknown::Leave,
        }
    }

    fn refuse_all(&mut self, tokens: Vec<TokenHash>, error: AuthError) {
        for hash in tokens {
            self.refuse(hash, error);
        }
    }

    fn refuse(&mut self, hash: TokenHash, error: AuthError) {
        self.ports.metrics.auth_looked_up(AuthLevel::Refused);
        if error != AuthError::Unavailable {
            self.memory.borrow_mut().add_refusal(hash, error, self.ports.clock.now());
        }
        self.finish(hash, &Err(error));
    }

    fn finish(&mut self, hash: TokenHash, answer: &Answer) {
        if let Some(flight) = self.token_flights.remove(&hash) {
            flight.waiters.answer(answer);
        }
    }

    fn schedule_touches(&mut self) {
        self.fly(async {
            tokio::time::sleep(touches::INTERVAL).await;
            Landing::TouchDue
        });
    }

    fn bring_touches(&mut self) {
        let used = self.memory.borrow_mut().touches.take();
        let ports = self.ports.clone();
        self.fly(async move { Landing::Touched(lookup::touch_keys(&ports, used).await) });
    }
}

impl Actor for AuthCache {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        ctx.spawn(Landings);
    }
}

impl Handler<Resolve> for AuthCache {
    type Result = Reply<Answer>;

    fn handle(&mut self, Resolve { hash, token }: Resolve, _: &mut Self::Context) -> Self::Result {
        self.resolve(hash, token)
    }
}

impl Handler<BringTouches> for AuthCache {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: BringTouches, _: &mut Self::Context) -> Self::Result {
        let used = self.memory.borrow_mut().touches.take();
        let ports = self.ports.clone();
        Box::pin(async move {
            if !used.is_empty() {
                // Nobody would try again.
                let _brought = lookup::touch_keys(&ports, used).await.is_ok();
            }
        })
    }
}

/// Takes in the flights that are back. One future for all of them: a context polls each of its futures at every
/// message, so one for each flight would make a cold start quadratic.
struct Landings;

impl ActorFuture<AuthCache> for Landings {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        cache: &mut AuthCache,
        ctx: &mut Context<AuthCache>,
        task: &mut task::Context<'_>,
    ) -> Poll<()> {
        while let Poll::Ready(Some(landing)) = cache.flights.poll_join_next(task) {
            match landing {
                Ok(landing) => cache.land(landing),
                Err(error) => tracing::error!(%error, "a flight was lost"),
            }
        }
        if ctx.connected() || !cache.flights.is_empty() { Poll::Pending } else { Poll::Ready(()) }
    }
}
