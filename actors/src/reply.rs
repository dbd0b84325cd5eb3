//! How one answer reaches everybody who waits for it.
//!
//! A reply either answers at once, without a box or a task, or puts the asker's channel into a list that is answered
//! later. A waiter is that channel and nothing else: whoever goes away leaves a closed one behind.

use std::{cell::RefCell, rc::Rc};

use actix::{
    Actor, Message,
    dev::{MessageResponse, OneshotSender},
};

/// The most that may wait for one answer. The others' questions fail as if the actor had stopped.
const MAX_WAITERS: usize = 4_096;

/// An answer, now or later.
pub(crate) enum Reply<T> {
    /// It is known.
    Now(T),
    /// All these will be told.
    Later(Waiters<T>),
}

/// Those who wait for the same answer.
pub(crate) struct Waiters<T>(Rc<RefCell<Vec<OneshotSender<T>>>>);

impl<T: Clone> Waiters<T> {
    /// Answers all of them. Those who went away don't mind.
    pub(crate) fn answer(&self, answer: &T) {
        for waiter in self.0.take() {
            // An error means that the asker is gone, which is no error here.
            drop(waiter.send(answer.clone()));
        }
    }

    /// Says whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }
}

impl<T> Waiters<T> {
    fn join(&self, waiter: OneshotSender<T>) {
        let mut waiters = self.0.borrow_mut();
        if waiters.len() >= MAX_WAITERS {
            waiters.retain(|waiter| !waiter.is_closed());
        }
        if waiters.len() < MAX_WAITERS {
            waiters.push(waiter);
        }
    }
}

impl<T> Clone for Waiters<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T> Default for Waiters<T> {
    fn default() -> Self {
        Self(Rc::default())
    }
}

impl<T, A: Actor, M: Message<Result = T>> MessageResponse<A, M> for Reply<T> {
    fn handle(self, _: &mut A::Context, asker: Option<OneshotSender<T>>) {
        let Some(asker) = asker else { return };
        match self {
            Self::Now(answer) => drop(asker.send(answer)),
            Self::Later(waiters) => waiters.join(asker),
        }
    }
}
