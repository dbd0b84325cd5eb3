//! Statements that diesel's query builder doesn't cover.
//!
//! Placeholders are `$1`, `$2`, … in the order of their first use: PostgreSQL takes them as numbers, SQLite as names
//! that it numbers by their first use.

use diesel::{
    QueryResult,
    backend::Backend,
    query_builder::{AstPass, Query, QueryFragment, QueryId},
};

/// A statement with fixed text, so that each connection prepares it once. `sql_query` alone never is kept prepared,
/// because its text might have been put together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prepared<Q>(pub(super) Q);

impl<Q: QueryFragment<DB>, DB: Backend> QueryFragment<DB> for Prepared<Q> {
    fn walk_ast<'b>(&'b self, pass: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        self.0.walk_ast(pass)
    }

    fn is_safe_to_cache_prepared(&self, _: &DB) -> QueryResult<bool> {
        Ok(true)
    }
}

impl<Q> QueryId for Prepared<Q> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<Q: Query> Query for Prepared<Q> {
    type SqlType = Q::SqlType;
}

/// Reads a statement of fixed text: `sql!("…", bind: Type = value, …)`.
macro_rules! sql {
    ($text:expr $(, $type:ty = $value:expr)* $(,)?) => {
        $crate::store::sql::Prepared(diesel::sql_query($text)$(.bind::<$type, _>($value))*)
    };
}
pub(super) use sql;
