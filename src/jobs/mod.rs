//! Who owns which job: records, the store they live in, the cache in front, and the look-up of `input_key`.

pub mod record;
