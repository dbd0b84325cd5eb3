//! The store of the model: one total, one lease for each instance, the recalls. It follows `src/store`'s statements.

use uuid::Uuid;

use crate::{
    domain::{Amounts, Portion},
    ports::{LeaseAnswer, LeaseAsk},
};

/// What is lent to one instance, with the last exchange about it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Row {
    pub(super) leased: i64,
    pub(super) exchange: Uuid,
    pub(super) granted: i64,
    pub(super) obeyed: i64,
}

#[derive(Debug, Clone)]
pub(super) struct Store {
    pub(super) used: i64,
    pub(super) rows: u8,
    pub(super) leases: Vec<Row>,
    /// The number of the last recall.
    pub(super) recalls: i64,
}

pub(super) fn requests(requests: i64) -> Portion {
    Portion { requests, ..Portion::ZERO }
}

impl Store {
    pub(super) fn new(instances: usize) -> Self {
        Self { used: 0, rows: 0, leases: vec![Row::default(); instances], recalls: 0 }
    }

    /// `used + Σ leased`.
    pub(super) fn taken(&self) -> i64 {
        self.used + self.leases.iter().map(|row| row.leased).sum::<i64>()
    }

    /// `exchange.sql`. One part in `parts` of what remains is lent where there is plenty.
    pub(super) fn exchange(&mut self, instance: usize, ask: &LeaseAsk, parts: i64) -> LeaseAnswer {
        let row = self.leases[instance];
        if row.exchange != ask.exchange {
            let leased = (row.leased - ask.give_back.requests.max(0)).max(0);
            let room = ask.limits.requests.map(|limit| limit - (self.taken() - row.leased) - leased);
            let lent = room.map_or(0, |room| {
                let plenty = (room / parts).min(ask.most.requests);
                room.min(plenty.max(ask.need.requests)).max(0)
            });
            self.leases[instance] =
                Row { leased: leased + lent, exchange: ask.exchange, granted: lent, obeyed: row.obeyed };
        }
        let row = &mut self.leases[instance];
        row.obeyed = row.obeyed.max(ask.obeyed);
        let row = *row;
        let others = || self.leases.iter().enumerate().filter(|(other, _)| *other != instance).map(|(_, row)| row);
        LeaseAnswer {
            used: Amounts { requests: self.used, ..Amounts::ZERO },
            granted: requests(row.granted),
            leased: requests(row.leased),
            elsewhere: requests(others().map(|row| row.leased).sum()),
            obeyed_elsewhere: others().filter(|row| row.leased > 0).map(|row| row.obeyed).min().unwrap_or(i64::MAX),
        }
    }

    /// Notes a recall. Returns its number and who is asked.
    pub(super) fn recall(&mut self, instance: usize) -> (i64, Vec<usize>) {
        let holds = |other: &usize| *other != instance && self.leases[*other].leased > 0;
        let holders: Vec<_> = (0..self.leases.len()).filter(holds).collect();
        self.recalls += i64::from(!holders.is_empty());
        (self.recalls, holders)
    }
}
