//! Crockford's base 32: digits and letters that are hard to mistake for each other, whatever their case.

use zeroize::Zeroizing;

const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Digits that a number of bytes takes.
pub(crate) const fn digits_of(bytes: usize) -> usize {
    (bytes * 8).div_ceil(5)
}

pub(crate) fn encode(bytes: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(digits_of(bytes.len())));
    let (mut bits, mut held) = (0_u32, 0);
    let mut push = |value: u32| text.push(char::from(DIGITS[usize::try_from(value % 32).unwrap_or_default()]));
    for byte in bytes {
        bits = (bits << 8 | u32::from(*byte)) & 0xFFFF;
        held += 8;
        while held >= 5 {
            held -= 5;
            push(bits >> held);
        }
    }
    if held > 0 {
        push(bits << (5 - held));
    }
    text
}

/// The bytes of exactly as many digits as they take. `None` for anything else, also if a bit is set that no byte has.
pub(crate) fn decode<const N: usize>(digits: impl Iterator<Item = u8>) -> Option<Zeroizing<[u8; N]>> {
    let mut bytes = Zeroizing::new([0; N]);
    let (mut bits, mut held, mut filled, mut count) = (0_u32, 0, 0, 0);
    for digit in digits {
        bits = (bits << 5 | value_of(digit)?) & 0xFFFF;
        held += 5;
        count += 1;
        if held >= 8 {
            held -= 8;
            *bytes.get_mut(filled)? = (bits >> held).to_le_bytes()[0];
            filled += 1;
        }
    }
    let unused = bits & ((1 << held) - 1);
    (count == digits_of(N) && filled == N && unused == 0).then_some(bytes)
}

/// What a digit stands for. Letters that are not used are read as what they look like.
fn value_of(digit: u8) -> Option<u32> {
    let digit = match digit.to_ascii_uppercase() {
        b'O' => b'0',
        b'I' | b'L' => b'1',
        other => other,
    };
    let at = DIGITS.iter().position(|known| *known == digit)?;
    u32::try_from(at).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn digits_are_crockfords() {
        assert_eq!(*encode(&[0xFF; 5]), "ZZZZZZZZ");
        assert_eq!(*encode(&[0x00, 0x44, 0x32, 0x14, 0xC7]), "01234567");
        assert_eq!(*encode(&[0xFF]), "ZW");
        assert_eq!(*decode::<1>("zw".bytes()).unwrap(), [0xFF]);
        assert_eq!(*decode::<5>("oiL34567".bytes()).unwrap(), *decode::<5>("01134567".bytes()).unwrap());
    }

    #[test]
    fn only_one_text_stands_for_bytes() {
        assert!(decode::<1>("ZX".bytes()).is_none(), "a bit that no byte has");
        assert!(decode::<1>("Z".bytes()).is_none());
        assert!(decode::<1>("ZW0".bytes()).is_none());
        assert!(decode::<1>("U0".bytes()).is_none());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bytes: [u8; 52]) {
            let text = encode(&bytes);
            prop_assert_eq!(text.len(), digits_of(52));
            prop_assert_eq!(*decode::<52>(text.bytes()).unwrap(), bytes);
        }
    }
}
