"""Look-alike letters: text that a reader takes for Latin letters, as those letters."""

from __future__ import annotations

import unicodedata
from functools import cache

from hybridserve.guards.visible_text import without_invisible

# Unicode's confusables.txt, as confusable_homoglyphs 3.3.1 has it, and the letters that Unicode's names call a Latin
# one (small capitals, with stroke or hook, regional indicators), without those that NFKD turns into the letter; read
# 2026-11-27. Some small letters are added whose capitals are in the list.
_LOOK_ALIKES = {
    "a": "ȺɑΑαАаᎪᗅᴀᶏ⍺ⱥꓮ𐊠𖽀🅐🅰🇦",
    "b": "ƀƁƂƃƄɃɓʙΒβВЬвᏏᏴᑲᖯᗷᵬᶀꓐꞖꞗꞴ𐊂𐊡𐌁🅑🅱🇧",
    "c": "ƇƈȻȼɕСсᏟᴄⲤⲥꓚꞒꞓꞔꟄꮯ𐊢𐌂𐐕𐐽𐔜𑣩𑣲𝼝🅒🅲🇨🝌",
    "d": "ĐđƊƋƌȡɖɗԁᎠᏧᑯᗞᗪᴅᵭᶁᶑꓒꓓꝹꝺꟇꟈ🅓🅳🇩",
    "e": "ɆɇΕεЕеҽᎬᴇᶒ℮⋿ⱸⴹꓰꬲꬴ𐊆𑢦𑢮🅔🅴🇪",
    "f": "ƑƒϜքᖴᵮᶂẝꓝꜰꝻꝼꞘꞙꬵ𐊇𐊥𐔥𑢢𑣂𝈓🅕🅵🇫",
    "g": "ƍƓǤǥɠɡɢʛԌցᏀᏳᵹᶃꓖꝽꞠꞡꬶ🅖🅶🇬",
    "h": "ĦħɦʜΗНнһհᎻᏂᕼⱧⱨⲎꓧꞕꞪ𐋏🅗🅷🇭",
    "i": "ıƗɨɩɪιіӏᎥᶖ⍳ꙇꭵ𑣃𝼚🅘🅸🇮",
    "j": "ȷɈɉɟʄʝͿϳЈјᎫᒍᴊꓙꞲ🅙🅹🇯",
    "k": "ƘƙΚκКкᏦᛕᴋᶄⱩⱪⲔꓗꝀꝁꝂꝃꝄꝅꞢꞣ𐔘🅚🅺🇰",
    "l": "ŁłƖƚǀȴȽɫɬɭʟΙІӀ۱Ꮮᒪᛁᴌᶅ∣⏽ⱠⱡⱢⲒⳐⵏꓡꓲꝈꝉꞎꞭꬷꬸꬹ𐊊𐌉𐌠𐐛𐔦𑢣𑢲𖼖𖼨𝈪𝼄𝼑𝼓"
       "🅛🅻🇱",
    "m": "ɱΜϺМмᎷᗰᛖᴍᵯᶆⱮⲘꓟꬺ𐊰𐌑🅜🅼🇲",
    "n": "ƝƞȠȵɲɳɴΝηոռᵰᶇⲚꓠꞐꞑꞤꞥꬻ𐔓🅝🅽🇳",
    "o": "ØøƟΟοσОоՕօ۵०০੦૦ଠ୦௦ం౦ಂ೦ംഠ൦ං๐໐ဝ၀ჿዐᴏᴑⱺⲞⲟⵔ〇ꓳꝊꝋꝌꝍꬽ𐊒𐊫𐐄𐐬𐓂"
       "𐓪𐔖𑓐𑢵𑣈𑣗𑣠𝼛🅞🅾🇴",
    "p": "ƤƥΡρРрᏢᑭᴘᵱᵽᶈ⍴ⱣⲢⲣꓑꝐꝑꝒꝓꝔꝕ𐊕🅟🅿🆊🇵",
    "q": "ɋʠԛգզⵕꝖꝗꝘꝙꞯ🅠🆀🇶",
    "r": "ƦɌɍɼɽɾʀгᎡᏒᖇᴦᵲᵳᶉⱤⲅꓣꞂꞃꞦꞧꭆꭇꭈꭉꭋꭌꮁ𐒴𖼵𝈖𝼖🅡🆁🇷",
    "s": "ƽȿʂЅѕՏᏕᏚᵴᶊⱾꓢꜱꞄꞅꞨꞩꟅꟉꟊꮪ𐊖𐐠𐑈𑣁𖼺𝼞🅢🆂🇸",
    "t": "ŦŧƫƬƭƮȶȾʈΤτТтᎢᴛᵵ⊤⟙ⱦⲦꓔꞆꞇ𐊗𐊱𐌕𑢼𖼊𝼉🅣🆃🇹🝨",
    "u": "ʋυՍսሀᑌᴜᶙ∪⋃ꓴꞟꞸꞹꭎꭒ𐓎𐓶𑢸𑣘𖽂🅤🆄🇺",
    "v": "ƲνѴѵ۷Ꮩᐯᴠ∨⋁ⱱⱴⴸꓦꛟꝞꝟꮩ𐔝𑜆𑢠𑣀𖼈𝈍🅥🆅🇻",
    "w": "ɯωѡԜԝաᎳᏔᴡⱲⱳꓪꮃ𑜊𑜎𑜏𑣦𑣯🅦🆆🇼",
    "x": "×ΧχХхᕁᕽ᙭᙮ᚷᶍ╳⤫⤬⨯ⲬⵝꓫꞳꭖꭗꭘꭙ𐊐𐊴𐌗𐌢𐔧𑣬🅧🆇🇽",
    "y": "ƳƴɎɏɣʏΥγУуҮүყᎩᎽᶌỾỿⲨꓬꭚ𐊲𑢤𑣜𖽃🅨🆈🇾",
    "z": "ƵƶȤȥɀʐʑΖᏃᴢᵶᶎⱫⱬⱿꓜꟆꮓ𐋵𑢩𑣄𑣥🅩🆉🇿",
}  # fmt: skip
_FEW = 32  # different characters


def plain_letters(text: str) -> str:
    """The text in plain Latin letters where it looks like them: NFKD, without combining and invisible characters.

    Accents, overlays and enclosing marks go away, and letters of other scripts that look Latin become Latin. Other text
    of such scripts loses its vowel signs, so this is a copy for matching and not for reading.
    """
    if text.isascii():
        return without_invisible(text)
    # Twice: letters with marks decompose, and marks in front of NFKD take quadratic time to sort.
    text = _replaced(without_invisible(text))
    return _replaced(unicodedata.normalize("NFKD", text))


def _replaced(text: str) -> str:
    table = _table()
    found = table.keys() & set(text)
    if len(found) > _FEW:
        return text.translate({ord(char): table[char] for char in found})
    for char in found:  # faster than translate, which looks up every character
        text = text.replace(char, table[char])
    return text


@cache
def _table() -> dict[str, str]:
    marks = (char for char in map(chr, range(0x300, 0x1E900)) if unicodedata.category(char) in ("Mn", "Me"))
    table = dict.fromkeys(marks, "")
    for first, last in ((0x249C, 0x24B5), (0x1F110, 0x1F129)):  # in parentheses, which NFKD would keep
        table.update({chr(code): chr(ord("a") + code - first) for code in range(first, last + 1)})
    for letter, others in _LOOK_ALIKES.items():
        for other in others:
            table[other] = letter
            if len(small := other.casefold()) == 1 and not small.isascii():
                table.setdefault(small, letter)
    return table
