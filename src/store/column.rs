//! A column of a batch, as PostgreSQL takes an array: twenty bytes about it, then each element behind its length (source:
//! `array_recv` in PostgreSQL's `arrayfuncs.c`).
//!
//! diesel's own arrays go through a buffer and a writer for each element, which took 8,000 instructions for each posting of
//! a batch.

use std::{fmt, marker::PhantomData};

use diesel::{
    pg::Pg,
    serialize::{self, IsNull, Output, ToSql},
    sql_types::{self, Array, BigInt, Bool, HasSqlType, Integer, SmallInt},
};
use uuid::Uuid;

/// A value that is written as so many bytes, whatever it is. None is null.
pub(super) trait Element<SqlType, const BYTES: usize> {
    /// Returns the bytes that PostgreSQL reads.
    fn bytes(self) -> [u8; BYTES];
}

impl Element<BigInt, 8> for i64 {
    fn bytes(self) -> [u8; 8] {
        self.to_be_bytes()
    }
}

impl Element<Integer, 4> for i32 {
    fn bytes(self) -> [u8; 4] {
        self.to_be_bytes()
    }
}

impl Element<SmallInt, 2> for i16 {
    fn bytes(self) -> [u8; 2] {
        self.to_be_bytes()
    }
}

impl Element<Bool, 1> for bool {
    fn bytes(self) -> [u8; 1] {
        [self.into()]
    }
}

impl Element<sql_types::Uuid, 16> for Uuid {
    fn bytes(self) -> [u8; 16] {
        self.into_bytes()
    }
}

/// A column of elements of that type.
pub(super) struct Column<SqlType> {
    len: usize,
    /// The elements, each behind its length.
    elements: Vec<u8>,
    of: PhantomData<SqlType>,
}

impl<SqlType> Column<SqlType> {
    /// Lays the elements out.
    pub(super) fn of<E: Element<SqlType, BYTES>, const BYTES: usize>(items: impl ExactSizeIterator<Item = E>) -> Self {
        let len = items.len();
        // No element is longer than a UUID.
        let length = u32::try_from(BYTES).unwrap_or(u32::MAX).to_be_bytes();
        let mut elements = Vec::with_capacity(len * (length.len() + BYTES));
        for item in items {
            elements.extend_from_slice(&length);
            elements.extend_from_slice(&item.bytes());
        }
        Self { len, elements, of: PhantomData }
    }
}

impl<SqlType> fmt::Debug for Column<SqlType> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Column").field("len", &self.len).finish_non_exhaustive()
    }
}

impl<SqlType> ToSql<Array<SqlType>, Pg> for Column<SqlType>
where
    Pg: HasSqlType<SqlType>,
{
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        use std::io::Write;

        let oid = <Pg as HasSqlType<SqlType>>::metadata(out.metadata_lookup()).oid()?;
        // One dimension, no nulls, of that type, so long, counted from 1.
        for field in [1, 0, oid, u32::try_from(self.len)?, 1] {
            out.write_all(&field.to_be_bytes())?;
        }
        out.write_all(&self.elements)?;
        Ok(IsNull::No)
    }
}
