"""Suggest codes for an unknown language. SONAR's codes are ISO 639-3 and a script, such as "eng_Latn"."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from flowkit.errors import listing

# English name, ISO 639-1 code, and the ISO 639-3 code in NLLB and SONAR.
NAMES = """
afrikaans af afr, albanian sq als, amharic am amh, arabic ar arb, armenian hy hye, assamese as asm, aymara ay ayr,
azerbaijani az azj, bambara bm bam, bashkir ba bak, basque eu eus, belarusian be bel, bengali bn ben, bosnian bs bos,
bulgarian bg bul, burmese my mya, cantonese - yue, catalan ca cat, chinese zh zho, croatian hr hrv, czech cs ces,
danish da dan, dutch nl nld, dzongkha dz dzo, english en eng, esperanto eo epo, estonian et est, ewe ee ewe,
faroese fo fao, fijian fj fij, filipino - tgl, finnish fi fin, flemish - nld, french fr fra, galician gl glg,
ganda lg lug, georgian ka kat, german de deu, greek el ell, guarani gn grn, gujarati gu guj, haitian ht hat,
hausa ha hau, hebrew he heb, hindi hi hin, hungarian hu hun, icelandic is isl, igbo ig ibo, indonesian id ind,
irish ga gle, italian it ita, japanese ja jpn, javanese jv jav, kannada kn kan, kashmiri ks kas, kazakh kk kaz,
khmer km khm, kikuyu ki kik, kinyarwanda rw kin, korean ko kor, kurdish ku kmr, kyrgyz ky kir, lao lo lao,
latvian lv lvs, limburgish li lim, lingala ln lin, lithuanian lt lit, luxembourgish lb ltz, macedonian mk mkd,
malagasy mg plt, malay ms zsm, malayalam ml mal, maltese mt mlt, mandarin - zho, maori mi mri, marathi mr mar,
mongolian mn khk, nepali ne npi, norwegian no nob, bokmal nb nob, nynorsk nn nno, occitan oc oci, oriya or ory,
oromo om gaz, pashto ps pbt, persian fa pes, farsi - pes, polish pl pol, portuguese pt por, punjabi pa pan,
quechua qu quy, romanian ro ron, rundi rn run, russian ru rus, samoan sm smo, sango sg sag, sanskrit sa san,
sardinian sc srd, scottish gd gla, serbian sr srp, shona sn sna, sindhi sd snd, sinhala si sin, slovak sk slk,
slovenian sl slv, somali so som, sotho st sot, spanish es spa, sundanese su sun, swahili sw swh, swati ss ssw,
swedish sv swe, tagalog tl tgl, tajik tg tgk, tamil ta tam, tatar tt tat, telugu te tel, thai th tha, tibetan bo bod,
tigrinya ti tir, tsonga ts tso, tswana tn tsn, turkish tr tur, turkmen tk tuk, twi tw twi, ukrainian uk ukr,
urdu ur urd, uyghur ug uig, uzbek uz uzn, vietnamese vi vie, welsh cy cym, wolof wo wol, xhosa xh xho, yiddish yi ydd,
yoruba yo yor, zulu zu zul, deutsch - deu, español - spa, français - fra, italiano - ita, português - por
"""


def nearest_languages(lang: str, known: Sequence[str], limit: int = 3) -> list[str]:
    """Return the codes in `known` that `lang` may mean, best first: "en", "English", "eng", "en-GB" -> ["eng_Latn"].

    Compares the ISO code, then the English name, the beginning of the code, and the spelling.
    """
    asked = lang.strip().lower().replace("-", "_")
    stem = asked.split("_")[0]
    entries = [entry.split() for entry in NAMES.replace("\n", " ").split(",")]
    codes = {word: code for name, short, code in entries for word in (name, short)}
    names = {name: code for name, _, code in entries}
    by_lower = {code.lower(): code for code in known}
    if asked in by_lower:
        return [by_lower[asked]]
    beginnings = [codes.get(stem), stem if len(stem) == 3 else None]
    beginnings += [names[name] for name in get_close_matches(stem, names, n=1, cutoff=0.8)]
    found = [code for start in beginnings if start for code in known if code.lower().startswith(start)]
    if not found:
        found = [code for code in known if len(stem) > 1 and code.lower().startswith(stem)]
    found += [by_lower[close] for close in get_close_matches(asked, by_lower, n=limit, cutoff=0.75)]
    return list(dict.fromkeys(found))[:limit]


def unknown_language(lang: str, known: Sequence[str], whose: str) -> str:
    """Return the message for a `lang` that is not in `known`."""
    close = nearest_languages(lang, known)
    hint = "; did you mean " + " or ".join(repr(code) for code in close) + "?" if close else ""
    some = listing(sorted(known), 8) if len(known) > 8 else listing(known)
    return f"lang: {lang!r} is not a language of {whose}; expected {some}{hint}"
