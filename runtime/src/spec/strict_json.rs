//! Refuses a JSON array where config.json must have an object.
//!
//! serde's derived code also parses a struct from an array, member by member. So `[]` would give a struct of defaults,
//! and `[1]` a memory limit. [`RejectSeqForStruct`] wraps a deserializer. It asks that for a map wherever a struct is
//! expected, and passes all other requests on.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor};

/// Wraps a deserializer that must not parse a struct from an array. It also wraps the visitors, seeds and accesses on
/// the way to the members, so that the rule holds for nested structs.
pub struct RejectSeqForStruct<T>(pub T);

/// Defines deserializer methods that differ only in their name.
macro_rules! ask {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method(RejectSeqForStruct(visitor))
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for RejectSeqForStruct<D> {
    type Error = D::Error;

    ask! {
        deserialize_any deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64
        deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf deserialize_option
        deserialize_unit deserialize_seq deserialize_map deserialize_identifier deserialize_ignored_any
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(RejectSeqForStruct(visitor))
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_unit_struct(name, RejectSeqForStruct(visitor))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_newtype_struct(name, RejectSeqForStruct(visitor))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_tuple(len, RejectSeqForStruct(visitor))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_tuple_struct(name, len, RejectSeqForStruct(visitor))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_enum(name, variants, RejectSeqForStruct(visitor))
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

/// Defines visitor methods that pass a scalar value on.
macro_rules! tell {
    ($($method:ident($value:ty))*) => {$(
        fn $method<E: Error>(self, value: $value) -> Result<V::Value, E> {
            self.0.$method(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for RejectSeqForStruct<V> {
    type Value = V::Value;

    tell! {
        visit_bool(bool) visit_i8(i8) visit_i16(i16) visit_i32(i32) visit_i64(i64) visit_i128(i128)
        visit_u8(u8) visit_u16(u16) visit_u32(u32) visit_u64(u64) visit_u128(u128) visit_f32(f32) visit_f64(f64)
        visit_char(char) visit_str(&str) visit_borrowed_str(&'de str) visit_string(String)
        visit_bytes(&[u8]) visit_borrowed_bytes(&'de [u8]) visit_byte_buf(Vec<u8>)
    }

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(RejectSeqForStruct(inner))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.0.visit_newtype_struct(RejectSeqForStruct(inner))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<V::Value, A::Error> {
        self.0.visit_seq(RejectSeqForStruct(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(RejectSeqForStruct(map))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, value: A) -> Result<V::Value, A::Error> {
        // The variants of oci-spec's enumerations hold no data.
        self.0.visit_enum(value)
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for RejectSeqForStruct<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(RejectSeqForStruct(deserializer))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for RejectSeqForStruct<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(RejectSeqForStruct(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for RejectSeqForStruct<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_key_seed(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.0.next_value_seed(RejectSeqForStruct(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde::Deserialize;
    use serde_json::{Deserializer as Json, json};

    use super::*;

    #[derive(Deserialize, Debug, PartialEq, Default)]
    #[serde(default)]
    struct Outer {
        one: Option<Inner>,
        many: Vec<Inner>,
        by_name: HashMap<String, Inner>,
        pair: Option<(u8, Vec<u16>)>,
        word: Option<Word>,
    }

    #[derive(Deserialize, Debug, PartialEq, Default)]
    #[serde(default)]
    struct Inner {
        number: Option<i64>,
    }

    #[derive(Deserialize, Debug, PartialEq)]
    enum Word {
        Yes,
    }

    fn read(text: &str) -> Result<Outer, serde_json::Error> {
        Outer::deserialize(RejectSeqForStruct(&mut Json::from_str(text)))
    }

    #[test]
    fn json_objects_are_parsed_as_without_the_adapter() {
        let text = json!({"one": {"number": -1}, "many": [{"number": 2}, {}], "by_name": {"a": {"number": 3}},
            "pair": [1, [2, 3]], "word": "Yes", "unknown": [{"x": []}]})
        .to_string();
        assert_eq!(read(&text).unwrap(), serde_json::from_str(&text).unwrap());
    }

    #[test]
    fn json_array_for_a_struct_is_refused() {
        for text in [
            json!([{"number": 1}]),
            json!({"one": [1]}),
            json!({"one": []}),
            json!({"many": [{"number": 1}, [2]]}),
            json!({"by_name": {"a": [3]}}),
        ] {
            let text = text.to_string();
            assert!(serde_json::from_str::<Outer>(&text).is_ok(), "{text}: serde takes it");
            let error = read(&text).unwrap_err().to_string();
            assert!(error.contains("invalid type: sequence, expected struct"), "{text}: {error}");
        }
    }
}
