//! Numbers in as few bytes as they need, seven bits to a byte, the lowest first.

/// Appends `value` to `out`.
pub fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads a number and moves `input` behind it; `None` if there is none or it is longer than it needs to be.
pub fn take(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = input.split_first()?;
        *input = rest;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return (*byte != 0 || shift == 0).then_some(value);
        }
    }
    None
}

/// Like [`take`], for a number of 32 bits.
pub fn take_u32(input: &mut &[u8]) -> Option<u32> {
    u32::try_from(take(input)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_and_no_cut_does() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), 1 << 63, u64::MAX] {
            let mut bytes = Vec::new();
            put(&mut bytes, value);
            for len in 0..bytes.len() {
                assert_eq!(take(&mut &bytes[..len]), None);
            }
            bytes.push(9);
            let mut input = bytes.as_slice();
            assert_eq!((take(&mut input), input), (Some(value), [9].as_slice()));
        }
    }

    #[test]
    fn what_put_would_not_have_written_is_refused() {
        assert_eq!(take(&mut [0x80, 0].as_slice()), None);
        assert_eq!(take(&mut [0xff; 11].as_slice()), None);
        assert_eq!(take(&mut [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2].as_slice()), None);
        assert_eq!(take_u32(&mut [0xff, 0xff, 0xff, 0xff, 0x1f].as_slice()), None);
    }
}
