//! What a client's connection and the requests on it know of each other.

use std::{cell::Cell, rc::Rc};

/// The heads of requests that have come over one connection. Shared by its socket and its requests.
#[derive(Debug, Default)]
pub struct Heads {
    whole: Cell<u32>,
    served: Cell<u32>,
    begun: Cell<bool>,
}

impl Heads {
    /// Notes that bytes have come: of the next head, unless a request is served, whose body they may be.
    pub fn came(&self) {
        self.begun.set(!self.is_served());
    }

    /// Notes that a head is whole. Its request is served for as long as what is returned lives.
    pub fn serve(self: &Rc<Self>) -> Served {
        self.whole.set(self.whole.get().wrapping_add(1));
        self.served.set(self.served.get() + 1);
        self.begun.set(false);
        Served(Rc::clone(self))
    }

    /// Says whether a request is served.
    #[must_use]
    pub fn is_served(&self) -> bool {
        self.served.get() > 0
    }

    /// Returns how many heads were whole, and whether one more has begun.
    #[must_use]
    pub fn seen(&self) -> (u32, bool) {
        (self.whole.get(), self.begun.get())
    }
}

/// A request from its head to the end of its answer.
#[derive(Debug)]
pub struct Served(Rc<Heads>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.served.set(self.0.served.get() - 1);
    }
}
