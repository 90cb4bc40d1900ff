"""Words that the rules look up. To teach the normaliser an acronym or a unit, add it here."""

from tacotron2.text.normalizer.say import plural


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Acronyms that are said as words. Everything else in capitals is spelt out; see `capitals`.
SPOKEN_ACRONYMS = _words("""
    AIDS AMBER ANSI ANZAC APEC ARM ASAP ASCII ASCAP ASEAN ASIC BAFTA BASIC BIOS BLAS BREXIT CAD CAPTCHA CAPEX CERN
    CHIP CISA CMOS COBOL COBRA CONUS COVID CORS CRUD CUDA DARPA DEFCON DOS DRAM EBITDA ECMO EPCOT ERISA FAANG FAQ FEMA
    FERPA FIDO FIFA FIFO FISA FOIA FOMO FORTRAN GAAP GATT GIF GITMO GNU GUI HAZMAT HIPAA IKEA IMAX INTERPOL JPEG JSON
    LAMP LAN LAPACK LASER LEED LEGO LIDAR LIFO LORAN MADD MASH MERS MIDI MOMA MOOC NAFTA NASA NASCAR NASDAQ NATO NAVY
    NERF NICE NIMBY NOAA NORAD OCHA OLED OPEC OPEX OSHA PATRIOT PETA PIN PNG POTUS PRAM QANTAS RADAR RAID RAM REIT REST
    RICO ROM ROTC SAAB SALT SARS SCOTUS SCUBA SEAL SETI SIDS SIM SIMD SMART SNAP SOAP SONAR SONY SPAM SPAC SRAM STEM
    SUNY SWAT SWIFT TASER TED TESOL UNESCO UNICEF VISA WAN WASP WIMP WYSIWYG YAML YOLO ZIP NUMA GAN GANS LAN WAN SQL
    NVIDIA TODO README LICENSE FIXME GNOME AMEX SAAS LATEX TOEFL GMAT SAG NIST NAS POSIX GIMP ELISA CRISPR TIFF BERT
    LLAMA SCSI SQUID
""") - {"SQL"}

# Initialisms that are spelt out even where everything around them is in capitals, or where they could be words.
SPELT_INITIALISMS = _words("""
    ABC ABS ACLU ADHD AEST AEDT AFAIK AI AKA AMD AOL API APA ASMR ATM AWS BBC BBQ BMI BMW BSD BTW CBS CBT CCTV CD CDC
    CEO CEST CET CFO CGI CIA CIO CLI CMS CNN COO CPR CPU CRM CSS CSV CTO CV DC DHL DIY DJ DMV DNA DNS DOJ DSL DSP DVD
    EDT EEG EKG EPA ESL ESPN EST ETA EU EV FAA FAQS FBI FCC FDA FDR FFT FPS FPGA FTP FYI GDP GDPR GMO GMT GPA GPS GPT
    GPU HBO HDD HDMI HIV HP HR HTML HTTP HTTPS IBM ICU ID IDE IEEE IMDB IMF IMHO IMO IOS IOU IP IPO IQ IRA IRS ISBN ISO
    ISP IT IV IVF JFK KFC KGB KPI LA LCD LED LGBT LGBTQ LLC LLM LSD LSTM MBA MIT ML MLB MLK MP MPG MRI MSG MSNBC MTV
    MVP NAACP NBA NBC NCAA NFL NGO NHL NHS NLP NPR NSA NSFW NVMe NYC NYPD NYU OCD OCR OEM OK ONNX OS PBS PC PCI PCR PDF
    PDT PHD PHP PMS POW PR PST PTO PTSD QA RBC RGB RIP RNA RNN ROI RPG RSS RSVP SAT SDK SEO SLA SMS SOS SPF SQL SSD SSH
    SSL SSN STD SUV TBA TBD TCP TLC TLS TNT TSA TV UAE UAV UCLA UFO UI UK UN UPS URL US USA USB USC USD USDA USPS USSR
    USAF UTC UV UX VAT VIP VOIP VPN VR WHO WWE WWF XML YMCA YTD
""")
# Of those, the ones that are common words: in a text that is all capitals they are words.
_ALSO_WORDS = _words("IT US WHO OK LED POW RIP SAT PR STD LA COO ID IRA MP ABS AI")
SPELT_AMONG_CAPITALS = SPELT_INITIALISMS - _ALSO_WORDS | {"AI"}

# Short words that people put in capitals to stress them; others, from four letters, are told by how they are spelled.
COMMON_SHORT_WORDS = _words("""
    AAH ACE ACT ADD AGE AGO AHH AID AIM AIR ALE ALL AM AN AND ANY APE ARC ARE AREA ARGH ARK ART AS ASH ASK AT AWAY AXE
    BAD BAG BAN BAR BAT BE BED BEE BET BID BIG BIN BIT BOW BOX BOY BUD BUG BUN BUS BUT BUY BY CAN CAP CAR CAT COW CRY
    CUB CUP CUT DAD DAM DAY DEN DEW DID DIE DIM DIP DO DOG DOGS DOT DOWN DRY DUE DUG DYE EAR EARTH EASY EAT EEK EGG
    EIGHT END ERA EVE EYE FAN FAR FAT FEE FEW FIGHT FIT FIX FLY FOG FOR FOX FUN FUR GAP GEM GET GO GOD GOT GUM GUN GUT
    HA HAD HAM HANDS HAS HAT HAY HE HEN HER HEY HI HID HIM HIP HIS HIT HOG HOP HOT HOW HUG HUH HUT ICE IDEA IF ILL IN
    INK INN IS ITS JAM JAR JAW JET JOB JOG JOY JUG KEY KIDS KIT LAB LAP LAW LAY LEG LET LID LIE LIGHT LIP LOG LOT LOW
    MAD MAN MAP MAT MAY ME MEN MET MIGHT MIX MOB MOM MONTH MOP MUD MUG MY NAH NAP NET NEW NEWS NIGHT NIL NO NOR NORTH
    NOT NOW NUT OAK OAR OAT ODD OF OFF OH OIL OLD ON ONE OOH OR OUR OUT OWE OWL OWN PAD PAN PAW PAY PEA PEN PET PIE PIG
    PIT POP POT PUB PUT RAG RAT RAW RED RIB RID RIGHT ROB ROD ROT ROW RUB RUG RUM RUN SAD SAW SAY SEA SEE SET SEW SHE
    SIGN SIP SIT SIX SKI SKY SO SOB SON SPY SUM SUN TAB TAN TAP TAR TAX TEA TEN THANKS THE TIE TIN TIP TO TOE TON TOO
    TOP TOWN TOY TRY TUB TUG TWO UGH UP USE VAN VET VOW WAR WAS WAX WAY WE WEB WET WHY WIG WIN WIT WON WORLD WORTH WOW
    YAY YEAH YEAR YEP YES YET YOU YOUR YUM ZOO
""")

MONTHS = {
    **{"jan": "January", "feb": "February", "mar": "March", "apr": "April", "may": "May", "jun": "June"},
    **{"jul": "July", "aug": "August", "sep": "September", "oct": "October", "nov": "November", "dec": "December"},
}
MONTH_NAMES = tuple(MONTHS.values())
WEEKDAYS = {
    **{"mon": "Monday", "tue": "Tuesday", "wed": "Wednesday", "thu": "Thursday", "fri": "Friday"},
    **{"sat": "Saturday", "sun": "Sunday"},
}

# Units after numbers: how they are written, and one of them in words.
UNITS = {
    # length and area
    **{"nm": "nanometer", "µm": "micrometer", "μm": "micrometer", "um": "micrometer", "mm": "millimeter"},
    **{"cm": "centimeter", "dm": "decimeter", "m": "meter", "km": "kilometer", "mi": "mile", "yd": "yard"},
    **{"yds": "yard", "ft": "foot", "in": "inch", "nmi": "nautical mile", "ly": "light year"},
    **{"ha": "hectare", "sq yd": "square yard", "sq ft": "square foot", "sqft": "square foot", "sq m": "square meter"},
    **{"sq km": "square kilometer", "sq mi": "square mile", "sq in": "square inch", "cu ft": "cubic foot"},
    **{"m2": "square meter", "km2": "square kilometer", "cm2": "square centimeter", "ft2": "square foot"},
    **{"m3": "cubic meter", "cm3": "cubic centimeter", "cc": "cubic centimeter"},
    # weight
    **{"µg": "microgram", "μg": "microgram", "mcg": "microgram", "mg": "milligram", "g": "gram", "kg": "kilogram"},
    **{"kgs": "kilogram", "KG": "kilogram", "Kg": "kilogram", "t": "ton", "lb": "pound", "lbs": "pound", "oz": "ounce"},
    # volume
    **{"µL": "microliter", "μL": "microliter", "ml": "milliliter", "mL": "milliliter", "cl": "centiliter"},
    **{"cL": "centiliter", "dl": "deciliter", "dL": "deciliter", "l": "liter", "L": "liter", "gal": "gallon"},
    **{"qt": "quart", "fl oz": "fluid ounce", "tsp": "teaspoon", "tbsp": "tablespoon", "bbl": "barrel"},
    # speed
    **{"mph": "mile per hour", "MPH": "mile per hour", "kph": "kilometer per hour", "KPH": "kilometer per hour"},
    **{"kmh": "kilometer per hour", "kn": "knot", "kt": "knot", "kts": "knot", "mpg": "mile per gallon"},
    # data
    **{"bit": "bit", "kbit": "kilobit", "Mbit": "megabit", "Gbit": "gigabit", "kB": "kilobyte", "KB": "kilobyte"},
    **{"MB": "megabyte", "GB": "gigabyte", "TB": "terabyte"},
    **{"PB": "petabyte", "EB": "exabyte", "KiB": "kibibyte", "MiB": "mebibyte", "GiB": "gibibyte", "TiB": "tebibyte"},
    **{"kb": "kilobit", "Kb": "kilobit", "Mb": "megabit", "Gb": "gigabit", "Tb": "terabit"},
    **{"kbps": "kilobit per second", "Kbps": "kilobit per second", "Mbps": "megabit per second"},
    **{"mbps": "megabit per second"},
    **{"Gbps": "gigabit per second", "Tbps": "terabit per second", "MBps": "megabyte per second"},
    **{"GBps": "gigabyte per second", "px": "pixel", "MP": "megapixel", "Mpx": "megapixel", "dpi": "dot per inch"},
    **{"ppi": "pixel per inch", "fps": "frame per second", "FPS": "frame per second"},
    # frequency, rotation, pulse
    **{"Hz": "hertz", "kHz": "kilohertz", "KHz": "kilohertz", "MHz": "megahertz", "GHz": "gigahertz"},
    **{"THz": "terahertz", "rpm": "revolution per minute", "RPM": "revolution per minute"},
    **{"bpm": "beat per minute", "BPM": "beat per minute"},
    # electricity, energy, force, pressure, light, sound
    **{"V": "volt", "mV": "millivolt", "kV": "kilovolt", "mA": "milliamp", "Ah": "amp hour", "mAh": "milliamp hour"},
    **{"W": "watt", "mW": "milliwatt", "kW": "kilowatt", "MW": "megawatt", "GW": "gigawatt", "TW": "terawatt"},
    **{"Wh": "watt hour", "kWh": "kilowatt hour", "KWh": "kilowatt hour", "MWh": "megawatt hour"},
    **{"GWh": "gigawatt hour", "TWh": "terawatt hour", "Ω": "ohm", "kΩ": "kilohm", "MΩ": "megohm"},
    **{"J": "joule", "kJ": "kilojoule", "MJ": "megajoule", "cal": "calorie", "kcal": "kilocalorie", "BTU": "B T U"},
    **{"N": "newton", "kN": "kilonewton", "Nm": "newton meter", "hp": "horsepower", "HP": "horsepower"},
    **{"Pa": "pascal", "hPa": "hectopascal", "kPa": "kilopascal", "MPa": "megapascal", "mbar": "millibar"},
    **{"psi": "pound per square inch", "atm": "atmosphere", "dB": "decibel", "lm": "lumen", "lx": "lux"},
    **{"eV": "electron volt"},
    **{"keV": "kiloelectron volt", "MeV": "megaelectron volt", "GeV": "gigaelectron volt", "mol": "mole"},
    **{"ppm": "part per million"},
    **{"ppb": "part per billion", "mmHg": "millimeter of mercury", "TFLOPS": "teraflop", "TFLOP": "teraflop"},
    # time
    **{"ns": "nanosecond", "µs": "microsecond", "μs": "microsecond", "us": "microsecond", "ms": "millisecond"},
    **{"s": "second", "sec": "second", "secs": "second", "min": "minute", "mins": "minute", "h": "hour", "hr": "hour"},
    **{"hrs": "hour", "wk": "week", "wks": "week", "mo": "month", "mos": "month", "yr": "year", "yrs": "year"},
    # temperature
    **{"°C": "degree Celsius", "°F": "degree Fahrenheit", "° C": "degree Celsius", "° F": "degree Fahrenheit"},
    **{"K": "kelvin", "°": "degree", "deg": "degree", "°N": "degree north", "°S": "degree south"},
    **{"° N": "degree north", "° S": "degree south", "° E": "degree east", "° W": "degree west"},
    **{"°E": "degree east", "°W": "degree west", "degC": "degree Celsius", "degF": "degree Fahrenheit"},
    # things
    **{"pcs": "piece", "pts": "point", "pt": "point", "pp": "percentage point", "bps": "basis point"},
}
_IRREGULAR = {
    **{"foot": "feet", "square foot": "square feet", "cubic foot": "cubic feet", "hertz": "hertz", "lux": "lux"},
    **{"horsepower": "horsepower", "inch": "inches", "kelvin": "kelvin", "B T U": "B T U's"},
    **{unit: unit for unit in ("kilohertz", "megahertz", "gigahertz", "terahertz")},
}
ATTACHED_ONLY = frozenset({"in", "us", "pt", "mo", "cc", "atm"})  # as words they mean something else, but for "in."
SPACED_ONLY = frozenset({"K"})  # "300 K" is kelvin, "300K" thousands


def units(singular: str) -> str:
    """The plural of a unit: its first noun's, "miles per hour" and "degrees Celsius"."""
    if singular in _IRREGULAR:
        return _IRREGULAR[singular]
    for preposition in (" per ", " of "):
        head, found, rest = singular.partition(preposition)
        if found:
            return units(head) + found + rest
    if singular.startswith("degree "):
        return "degrees " + singular.removeprefix("degree ")
    return plural(singular)


SCALES = {
    **{"k": "thousand", "K": "thousand", "m": "million", "M": "million", "mn": "million", "mm": "million"},
    **{"MM": "million", "mil": "million", "b": "billion", "B": "billion", "bn": "billion", "t": "trillion"},
    **{"T": "trillion", "tn": "trillion", "trn": "trillion"},
    **{"lakh": "lakh", "crore": "crore"},
    **{scale: scale for scale in ("hundred", "thousand", "million", "billion", "trillion", "quadrillion")},
}

# What a letter that stands for a scale counts: "50m people".
COUNTED_NOUNS = _words("""
    people users followers views viewers visitors downloads subscribers customers clients members fans players readers
    listeners voters residents inhabitants citizens households homes jobs workers employees students children patients
    deaths cases copies records sales units shares streams plays posts tweets likes votes years barrels tons tonnes
    dollars euros pounds yen rupees tokens parameters rows requests queries lines words pages images videos vehicles
    cars trees acres hectares tests doses accounts devices phones passengers tourists refugees
""")

# Currencies by sign or code: one, many, one of the hundredth part, many of them ("" where nobody counts them).
_DOLLARS = ("dollar", "dollars", "cent", "cents")
CURRENCIES = {
    "$": _DOLLARS,
    **{
        f"{sign}$": (f"{name} dollar", f"{name} dollars", "cent", "cents")
        for sign, name in (
            ("US", "U S"),
            ("CA", "Canadian"),
            ("C", "Canadian"),
            ("A", "Australian"),
            ("AU", "Australian"),
            ("NZ", "New Zealand"),
            ("HK", "Hong Kong"),
            ("S", "Singapore"),
        )
    },
    "R$": ("real", "reais", "centavo", "centavos"),
    "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"),
    "¥": ("yen", "yen", "", ""),
    "₹": ("rupee", "rupees", "paisa", "paise"),
    "₩": ("won", "won", "", ""),
    "₽": ("ruble", "rubles", "kopek", "kopeks"),
    "₺": ("lira", "lira", "", ""),
    "₪": ("shekel", "shekels", "", ""),
    "₫": ("dong", "dong", "", ""),
    "₴": ("hryvnia", "hryvnias", "", ""),
    "₦": ("naira", "naira", "", ""),
    "฿": ("baht", "baht", "", ""),
    "₿": ("bitcoin", "bitcoins", "", ""),
    "USD": ("U S dollar", "U S dollars", "cent", "cents"),
    "EUR": ("euro", "euros", "cent", "cents"),
    "GBP": ("British pound", "British pounds", "penny", "pence"),
    "JPY": ("yen", "yen", "", ""),
    "CHF": ("Swiss franc", "Swiss francs", "centime", "centimes"),
    "CAD": ("Canadian dollar", "Canadian dollars", "cent", "cents"),
    "AUD": ("Australian dollar", "Australian dollars", "cent", "cents"),
    "CNY": ("yuan", "yuan", "", ""),
    **dict.fromkeys(("INR", "Rs", "Rs."), ("rupee", "rupees", "paisa", "paise")),
    "SEK": ("Swedish krona", "Swedish kronor", "", ""),
}

# Abbreviations with a period that mean one thing wherever they stand.
ABBREVIATIONS = {
    **{"mr": "Mister", "mrs": "Misess", "ms": "Miz", "prof": "Professor", "rev": "Reverend", "hon": "Honorable"},
    **{"gen": "General", "sen": "Senator", "rep": "Representative", "gov": "Governor", "lt": "Lieutenant"},
    **{"col": "Colonel", "capt": "Captain", "cpt": "Captain", "cmdr": "Commander", "maj": "Major", "sgt": "Sergeant"},
    **{"pvt": "Private", "cpl": "Corporal", "adm": "Admiral", "pres": "President", "supt": "Superintendent"},
    **{"drs": "Doctors", "messrs": "Messrs", "jr": "Junior", "sr": "Senior", "esq": "Esquire"},
    **{"mt": "Mount", "ft": "Fort"},
}
ENDING_ABBREVIATIONS = {  # these may end a sentence, and keep its period then
    **{"etc": "et cetera", "inc": "incorporated", "corp": "corporation", "co": "company", "ltd": "limited"},
    **{"dept": "department", "assn": "association", "assoc": "associates", "bros": "brothers", "univ": "university"},
    **{"approx": "approximately", "est": "established", "misc": "miscellaneous", "min": "minimum", "max": "maximum"},
    **{"vs": "versus", "incl": "including", "excl": "excluding", "apt": "apartment", "appt": "appointment"},
    **{"govt": "government", "avg": "average", "temp": "temperature", "tel": "telephone", "ext": "extension"},
    **{"lb": "pound", "lbs": "pounds", "oz": "ounces", "hrs": "hours", "mins": "minutes", "secs": "seconds"},
    **{"jan": "January", "feb": "February", "mar": "March", "apr": "April", "aug": "August", "sept": "September"},
    **{"oct": "October", "nov": "November", "dec": "December", "pp": "pages", "hosp": "hospital", "bldg": "building"},
}
# Short and followed by a name as often as by nothing: a capital after them begins a sentence only in one of `OPENERS`.
BEFORE_NAMES = _words("vs inc corp co ltd approx dept univ est bros assoc incl excl")
OPENERS = _words("""
    The He She It We They I But And This That In On When If What There You My His Her Our A An Then After Before So As
    At For By With From These Those Some Many Most All However Since Later Now Today Here No Not Yes While Once Both
    Each Its Their One Two How Why Where Who Did Do Does Is Are Was Were Can Could Would Will Let Please Also Although
    Because During Despite Until Next Finally Soon Still Even Only Such Your Another Perhaps Maybe
""")
OPENER = rf"(?:{'|'.join(sorted(OPENERS))})\b"
BEFORE_NUMBERS = {
    **{"no": "number", "nos": "numbers", "fig": "figure", "figs": "figures", "p": "page", "pp": "pages"},
    **{"vol": "volume", "vols": "volumes", "ch": "chapter", "chap": "chapter", "sec": "section", "eq": "equation"},
    **{"ed": "edition", "art": "article", "op": "opus", "ver": "version", "ste": "suite", "apt": "apartment"},
    **{"v": "volume", "rte": "route", "rt": "route", "hwy": "highway", "ext": "extension", "pt": "part"},
    **{"bk": "book", "ep": "episode", "para": "paragraph", "tab": "table"},
}
STREETS = {
    **{"st": "street", "dr": "drive", "ave": "avenue", "av": "avenue", "blvd": "boulevard", "rd": "road", "ln": "lane"},
    **{"ct": "court", "pl": "place", "sq": "square", "hwy": "highway", "pkwy": "parkway", "ter": "terrace"},
    **{"cir": "circle", "expy": "expressway", "fwy": "freeway", "tpke": "turnpike", "trl": "trail", "plz": "plaza"},
}
LATIN = {
    **{"e.g.": "for example", "i.e.": "that is", "a.k.a.": "also known as", "ph.d.": "pee aitch dee"},
    **{"et al.": "and others", "p.s.": "pee ess", "c.f.": "compare", "cf.": "compare", "w/o": "without"},
    **{"w/": "with", "b/c": "because", "c/o": "care of", "n/a": "not applicable", "a/c": "air conditioning"},
    **{"ca.": "circa", "i/o": "eye oh", "&c.": "et cetera", "&c": "et cetera"},
}
STATES = {
    **{"AL": "Alabama", "AK": "Alaska", "AZ": "Arizona", "AR": "Arkansas", "CA": "California", "CO": "Colorado"},
    **{"CT": "Connecticut", "DE": "Delaware", "FL": "Florida", "GA": "Georgia", "HI": "Hawaii", "ID": "Idaho"},
    **{"IL": "Illinois", "IN": "Indiana", "IA": "Iowa", "KS": "Kansas", "KY": "Kentucky", "LA": "Louisiana"},
    **{"ME": "Maine", "MD": "Maryland", "MA": "Massachusetts", "MI": "Michigan", "MN": "Minnesota"},
    **{"MS": "Mississippi", "MO": "Missouri", "MT": "Montana", "NE": "Nebraska", "NV": "Nevada"},
    **{"NH": "New Hampshire", "NJ": "New Jersey", "NM": "New Mexico", "NY": "New York", "NC": "North Carolina"},
    **{"ND": "North Dakota", "OH": "Ohio", "OK": "Oklahoma", "OR": "Oregon", "PA": "Pennsylvania"},
    **{"RI": "Rhode Island", "SC": "South Carolina", "SD": "South Dakota", "TN": "Tennessee", "TX": "Texas"},
    **{"UT": "Utah", "VT": "Vermont", "VA": "Virginia", "WA": "Washington", "WV": "West Virginia"},
    **{"WI": "Wisconsin", "WY": "Wyoming", "DC": "D C"},
}
RULERS = _words("""
    Alexander Alfonso Benedict Carl Catherine Charles Christian Clement Constantine Darius Edward Eleanor Elizabeth
    Ferdinand Francis Frederick George Gregory Gustav Haakon Harald Henry Innocent Isabella Ivan James John Joseph Juan
    Leo Leopold Louis Ludwig Margaret Mary Maximilian Napoleon Nicholas Olav Otto Paul Peter Philip Pius Ramesses Ramses
    Richard Robert Rudolf Stephen Sixtus Theodore Urban Victor Wilhelm William Xerxes Carlos Felipe Philippe Umberto
    Cleopatra Ptolemy Selim Mehmed Suleiman Thutmose Amenhotep Baldwin Malcolm Kenneth David Edmund Alfred
""")
GIVEN_NAMES = RULERS | _words("""
    Michael Thomas Daniel Mark Steven Andrew Joshua Kevin Brian Ronald Timothy Jason Jeffrey Ryan Jacob Gary Eric
    Jonathan Larry Justin Scott Brandon Benjamin Samuel Jack Dennis Jerry Tyler Aaron Adam Nathan Douglas Zachary Kyle
    Walter Ethan Harold Keith Roger Gerald Terry Sean Austin Arthur Lawrence Jesse Dylan Bryan Joe Billy Bruce Albert
    Willie Gabriel Logan Alan Wayne Roy Ralph Randy Eugene Vincent Russell Bobby Johnny Davis Harry Howard Anthony
    Donald Matthew Patrick Frank Raymond Gregory Dwight Jim Tom Bob Bill Sam Ben Dan Will Luke Max Oscar Hugh Martin
""")
RULER_TITLES = _words("King Queen Pope Emperor Empress Tsar Tsarina Czar Prince Princess Kaiser Sultan Pharaoh Saint")

# Behind a slash, further than units: "500/day".
PER_WORDS = _words("""
    second minute hour day week month year night person people capita head student user unit item page word line mile
    gallon acre seat call game share pound
""")

TOP_DOMAINS = _words("""
    com org net edu gov io ai co uk de fr eu ca au jp nl ch dev app info biz tv xyz int mil cn ru br se es pl tech
    online store blog
""")
FILE_ENDINGS = _words("""
    txt pdf doc docx xls xlsx csv tsv ppt pptx odt rtf md rst tex html htm xml json jsonl yaml yml toml ini cfg conf log
    py pyc ipynb js ts jsx tsx java c h cc cpp hpp cu rs go rb php sh bash bat exe dll so bin iso img dmg apk deb rpm
    zip tar gz tgz bz2 xz rar 7z jpg jpeg png gif bmp svg webp tiff mp3 mp4 wav flac ogg opus m4a avi mkv mov webm
    onnx engine plan pt pth ckpt npy npz sql db lock whl env vue css scss
""")
SPELT_ENDINGS = _words("""
    txt pdf doc xls xlsx docx csv tsv ppt pptx odt rtf md html htm xml yml py js ts jsx tsx cc cpp hpp cu rs rb php sh
    exe dll iso dmg apk deb rpm gz tgz bz xz svg mp avi mkv sql db css uk eu io ai tv us de fr ca au jp nl ch edu
""")
