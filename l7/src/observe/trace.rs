//! W3C Trace Context (level 1, section 3): `traceparent`.

use std::fmt::Write;

use http::{HeaderMap, HeaderValue};

use crate::route::hex;

/// The field's name.
pub(crate) const TRACEPARENT: &str = "traceparent";
/// The other one, which is passed on as it is, and not at all without a valid parent.
pub(crate) const TRACESTATE: &str = "tracestate";

/// Which trace a request is part of.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct TraceContext {
    /// The trace.
    pub trace: u128,
    /// The span that the endpoint sees as its parent.
    pub span: u64,
    /// Flags; bit 0: sampled.
    pub flags: u8,
}

impl TraceContext {
    /// Reads a value of version 00, or what a later version has in common with it.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (version, rest) = value.split_at_checked(3)?;
        let version = number(version.strip_suffix(b"-")?)?;
        let (trace, rest) = rest.split_at_checked(33)?;
        let (span, rest) = rest.split_at_checked(17)?;
        let (flags, rest) = rest.split_at_checked(2)?;
        let later = version != 0 && rest.first() == Some(&b'-');
        let context = Self {
            trace: number(trace.strip_suffix(b"-")?)?,
            span: number(span.strip_suffix(b"-")?)? as u64, // 16 digits.
            flags: number(flags)? as u8,                    // Two.
        };
        let sound = version != 0xff && (rest.is_empty() || later);
        (sound && context.trace != 0 && context.span != 0).then_some(context)
    }

    /// As a value of version 00.
    pub fn value(&self) -> Option<HeaderValue> {
        let mut text = String::with_capacity(55);
        let Self { trace, span, flags } = self;
        write!(text, "00-{trace:032x}-{span:016x}-{flags:02x}").ok()?;
        HeaderValue::try_from(text).ok()
    }

    /// Whether it is recorded.
    pub const fn sampled(&self) -> bool {
        self.flags & 1 != 0
    }
}

fn number(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0u128, |sum, digit| {
        // Upper case is not allowed (section 3.2.2).
        let value = hex(*digit).filter(|_| !digit.is_ascii_uppercase())?;
        Some(sum << 4 | u128::from(value))
    })
}

/// Brings a request's trace context in order (OBS-07): passed on as it is when it is not sampled, with a span of ours when it is, and
/// made, not sampled, where there is none and `create` says so.
pub(crate) fn propagate(
    headers: &mut HeaderMap,
    create: bool,
    mut random: impl FnMut() -> u64,
) -> Option<TraceContext> {
    let mut lines = headers.get_all(TRACEPARENT).iter();
    let one = lines.next().filter(|_| lines.next().is_none());
    let context = match one.and_then(|value| TraceContext::parse(value.as_bytes())) {
        Some(context) if !context.sampled() => return Some(context),
        Some(context) => TraceContext {
            span: random().max(1),
            ..context
        },
        None if create => {
            headers.remove(TRACESTATE);
            TraceContext {
                trace: (u128::from(random()) << 64 | u128::from(random())).max(1),
                span: random().max(1),
                flags: 0,
            }
        }
        None => return None,
    };
    headers.insert(TRACEPARENT, context.value()?);
    Some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, value.parse().unwrap());
        headers.insert(TRACESTATE, HeaderValue::from_static("a=b"));
        headers
    }

    #[test]
    fn values_are_read_by_the_letter() {
        let context = TraceContext::parse(VALUE.as_bytes()).unwrap();
        assert_eq!(context.value().unwrap(), VALUE);
        assert!(TraceContext::parse(VALUE.replacen("00", "cc", 1).as_bytes()).is_some());
        assert!(
            TraceContext::parse(format!("{}-x", VALUE.replacen("00", "cc", 1)).as_bytes())
                .is_some()
        );
        for bad in [
            "",
            &VALUE[1..],
            &VALUE[..54],
            &format!("{VALUE}-x"),
            &VALUE.to_uppercase(),
            &VALUE.replacen("00", "ff", 1),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        ] {
            assert_eq!(TraceContext::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    /// OBS-07.
    #[test]
    fn obs_07_propagation() {
        let mut sampled = headers(VALUE);
        let context = propagate(&mut sampled, true, || 7).unwrap();
        assert_eq!((context.span, context.sampled()), (7, true));
        assert_eq!(
            sampled[TRACEPARENT],
            VALUE.replace("00f067aa0ba902b7", "0000000000000007")
        );
        let quiet = VALUE.replace("-01", "-00");
        let mut unsampled = headers(&quiet);
        propagate(&mut unsampled, true, || 7).unwrap();
        assert_eq!(unsampled, headers(&quiet));
        let mut broken = headers("x");
        assert_eq!(propagate(&mut broken, false, || 7), None);
        assert!(propagate(&mut broken, true, || 7).is_some());
        assert!(!broken.contains_key(TRACESTATE));
    }
}
