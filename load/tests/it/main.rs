//! Tests of the far ends against each other: the client asks, the mock answers, the proxy stands between.

#[cfg(test)]
mod chaos;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod measure;
#[cfg(test)]
mod streams;
