//! Metric families whose children are resolved once, so that an event costs an array index and an atomic addition.
//!
//! A child looked up by its label's text costs six times as much as the addition itself (30 ns against 5), so texts
//! are never seen on a request's path: labels are enums here, and runtime names are resolved when they become known.

use std::{collections::BTreeSet, marker::PhantomData, sync::Mutex, time::Duration};

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, Result, core::Collector,
};

use super::labels::Labels;

/// The most names of one kind that become labels; further ones are counted together as `other`.
const MAX_NAMES: usize = 64;

/// A time series that events change.
pub(super) trait Series: Sized {
    /// All series of one name.
    type Family: Collector + Clone + 'static;

    /// Makes the family.
    fn family(name: &str, help: &str, labels: &[&str]) -> Result<Self::Family>;

    /// Returns the series with these label values.
    fn child(family: &Self::Family, values: &[&str]) -> Result<Self>;
}

macro_rules! series {
    ($($series:ident in $family:ident;)*) => {
        $(impl Series for $series {
            type Family = $family;

            fn family(name: &str, help: &str, labels: &[&str]) -> Result<$family> {
                $family::new(Opts::new(name, help), labels)
            }

            fn child(family: &$family, values: &[&str]) -> Result<Self> {
                family.get_metric_with_label_values(values)
            }
        })*
    };
}

series! {
    IntCounter in IntCounterVec;
    IntGauge in IntGaugeVec;
    Gauge in GaugeVec;
}

/// A histogram of durations, in seconds.
pub(super) struct Timing(Histogram);

impl Timing {
    /// From 50 µs, a slow answer from memory, to 2 min, a long answer; the targets of the report are bounds.
    const BUCKETS: [f64; 17] =
        [5e-5, 2e-4, 1e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0];
}

/// A histogram of counts.
pub(super) struct Size(Histogram);

impl Size {
    /// From a single one to twice the largest flush.
    const BUCKETS: [f64; 9] = [1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 2500.0, 5000.0, 10_000.0];
}

macro_rules! histogram {
    ($series:ident) => {
        impl Series for $series {
            type Family = HistogramVec;

            fn family(name: &str, help: &str, labels: &[&str]) -> Result<HistogramVec> {
                HistogramVec::new(HistogramOpts::new(name, help).buckets(Self::BUCKETS.to_vec()), labels)
            }

            fn child(family: &HistogramVec, values: &[&str]) -> Result<Self> {
                family.get_metric_with_label_values(values).map(Self)
            }
        }
    };
}

histogram!(Timing);
histogram!(Size);

/// One series for each value of the enum (or pair of enums) `L`; a single one where `L` is `()`.
pub(super) struct Children<L, S> {
    series: Box<[S]>,
    labels: PhantomData<fn(L)>,
}

impl<L: Labels, S: Series> Children<L, S> {
    fn resolve(family: &S::Family, name: Option<&str>) -> Result<Self> {
        let values = |labels: L| name.into_iter().chain(labels.values()).collect::<Vec<_>>();
        let series = L::all().map(|labels| S::child(family, &values(labels))).collect::<Result<_>>()?;
        Ok(Self { series, labels: PhantomData })
    }

    /// Makes the family, in which `L` is all labels there are.
    pub(super) fn register(registry: &Registry, name: &str, help: &str) -> Result<Self> {
        let family = S::family(name, help, &L::names())?;
        registry.register(Box::new(family.clone()))?;
        Self::resolve(&family, None)
    }

    fn with(&self, labels: L, event: impl FnOnce(&S)) {
        if let Some(series) = self.series.get(labels.index()) {
            event(series);
        }
    }
}

impl<L: Labels> Children<L, IntCounter> {
    /// Counts one.
    pub(super) fn count(&self, labels: L) {
        self.with(labels, IntCounter::inc);
    }

    /// Counts that many.
    pub(super) fn add(&self, labels: L, count: u64) {
        self.with(labels, |counter| counter.inc_by(count));
    }

    /// Follows a total that is counted elsewhere, by one caller only.
    pub(super) fn raise_to(&self, labels: L, total: u64) {
        self.with(labels, |counter| counter.inc_by(total.saturating_sub(counter.get())));
    }
}

impl<L: Labels> Children<L, IntGauge> {
    /// Sets the level; what doesn't fit saturates.
    pub(super) fn set(&self, labels: L, level: u64) {
        self.with(labels, |gauge| gauge.set(i64::try_from(level).unwrap_or(i64::MAX)));
    }

    /// Raises the level by one.
    pub(super) fn raise(&self, labels: L) {
        self.with(labels, IntGauge::inc);
    }

    /// Lowers the level by one.
    pub(super) fn lower(&self, labels: L) {
        self.with(labels, IntGauge::dec);
    }
}

impl<L: Labels> Children<L, Gauge> {
    /// Sets the level.
    pub(super) fn set_seconds(&self, labels: L, level: Duration) {
        self.with(labels, |gauge| gauge.set(level.as_secs_f64()));
    }
}

impl<L: Labels> Children<L, Timing> {
    /// Takes down how long something took.
    pub(super) fn time(&self, labels: L, took: Duration) {
        self.with(labels, |timing| timing.0.observe(took.as_secs_f64()));
    }
}

impl<L: Labels> Children<L, Size> {
    /// Takes down how many there were.
    pub(super) fn measure(&self, labels: L, count: u32) {
        self.with(labels, |size| size.0.observe(f64::from(count)));
    }
}

/// What kind of name a family's first label is.
pub(super) trait NameKind {
    /// The label.
    const LABEL: &'static str;
}

/// A family whose first label is a name known only at run time, such as a provider's. At most [`MAX_NAMES`] of them.
pub(super) struct Named<N, L, S: Series> {
    family: S::Family,
    known: Mutex<BTreeSet<Box<str>>>,
    labels: PhantomData<fn(N, L)>,
}

impl<N: NameKind, L: Labels, S: Series> Named<N, L, S> {
    /// Makes the family, without children.
    pub(super) fn register(registry: &Registry, name: &str, help: &str) -> Result<Self> {
        let labels: Vec<_> = std::iter::once(N::LABEL).chain(L::names()).collect();
        let family = S::family(name, help, &labels)?;
        registry.register(Box::new(family.clone()))?;
        Ok(Self { family, known: Mutex::default(), labels: PhantomData })
    }

    /// Returns the children of that name. Takes a lock and allocates: not for the request path.
    pub(super) fn of(&self, name: &str) -> Children<L, S> {
        let mut known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let name = if known.contains(name) || known.len() < MAX_NAMES { name } else { "other" };
        known.insert(name.into());
        // Fails only if the number of values differs from that of the labels; then nothing is counted.
        Children::resolve(&self.family, Some(name))
            .unwrap_or_else(|_| Children { series: Box::default(), labels: PhantomData })
    }
}

/// Declares the struct of all families. The doc comment of a field is the help text that `/metrics` shows.
macro_rules! families {
    ($($(#[doc = $help:literal])+ $field:ident: $kind:ty = $name:literal;)*) => {
        /// Every family, and the registry that encodes them.
        struct Families {
            registry: prometheus::Registry,
            $($(#[doc = $help])+ $field: $kind,)*
        }

        impl Families {
            fn register() -> prometheus::Result<Self> {
                let registry = prometheus::Registry::new();
                Ok(Self {
                    $($field: <$kind>::register(&registry, $name, concat!($($help),+).trim())?,)*
                    registry,
                })
            }
        }
    };
}

pub(super) use families;
