//! What is counted of postings that have reached the store.

use std::collections::HashMap;

use crate::{
    domain::{ClassId, Posting},
    metrics::{ClassMetrics, Metrics},
    registry::CatalogHandle,
};

/// Counts what has reached the store.
pub(super) struct Tally {
    catalog: CatalogHandle,
    metrics: Metrics,
    classes: HashMap<ClassId, ClassMetrics>,
}

impl Tally {
    /// Counts in these metrics, by the catalog's names of classes.
    pub(super) fn new(catalog: CatalogHandle, metrics: Metrics) -> Self {
        Self { catalog, metrics, classes: HashMap::new() }
    }

    /// Counts postings that have reached the store.
    pub(super) fn count(&mut self, postings: &[Posting]) {
        for posting in postings {
            let class = self.classes.entry(posting.class).or_insert_with(|| {
                let catalog = self.catalog.current();
                self.metrics.class(catalog.class_name(posting.class))
            });
            class.posted(posting);
        }
    }
}
