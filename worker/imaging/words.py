"""What headers call things: the words and codes by which the gates tell a slice of the brain from everything else.

Words are searched in plain text: lower case, without accents, one blank for an underscore (`gates`).
"""

from __future__ import annotations

import re

from pydicom import uid

# PS3.3 C.7.3.1.1.1, with the retired ones that archives still hold.
MODALITIES = frozenset(
    [
        "ANN",
        "AR",
        "ASMT",
        "AU",
        "BDUS",
        "BI",
        "BMD",
        "CFM",
        "CR",
        "CT",
        "CTPROTOCOL",
        "DG",
        "DMS",
        "DOC",
        "DX",
        "ECG",
        "EEG",
        "EMG",
        "EOG",
        "EPS",
        "ES",
        "FID",
        "GM",
        "HC",
        "HD",
        "IO",
        "IOL",
        "IVOCT",
        "IVUS",
        "KER",
        "KO",
        "LEN",
        "LS",
        "M3D",
        "MG",
        "MR",
        "NM",
        "OAM",
        "OCT",
        "OP",
        "OPM",
        "OPT",
        "OPTBSV",
        "OPTENF",
        "OPV",
        "OSS",
        "OT",
        "PA",
        "PLAN",
        "POS",
        "PR",
        "PT",
        "PX",
        "REG",
        "RESP",
        "RF",
        "RG",
        "RTDOSE",
        "RTIMAGE",
        "RTINTENT",
        "RTPLAN",
        "RTRAD",
        "RTRECORD",
        "RTSEGANN",
        "RTSTRUCT",
        "RWV",
        "SEG",
        "SM",
        "SMR",
        "SR",
        "SRF",
        "STAIN",
        "TEXTUREMAP",
        "TG",
        "US",
        "VA",
        "XA",
        "XAPROTOCOL",
        "XC",
        "CD",
        "CF",
        "CP",
        "CS",
        "DD",
        "DF",
        "DM",
        "DS",
        "EC",
        "FA",
        "FS",
        "LP",
        "MA",
        "MS",
        "OPR",
        "ST",
        "TH",
        "VF",
    ]
)

PICTURE_CLASSES = frozenset(
    {
        *(uid.MRImageStorage, uid.EnhancedMRImageStorage, uid.EnhancedMRColorImageStorage),
        uid.LegacyConvertedEnhancedMRImageStorage,
        *(uid.SecondaryCaptureImageStorage, uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage),
        *(uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage, uid.MultiFrameTrueColorSecondaryCaptureImageStorage),
    }
)
"""SOP classes that hold MR pictures. Archives convert to secondary capture and keep the modality."""

MAP_CLASSES = frozenset(
    {
        *(uid.SegmentationStorage, uid.ParametricMapStorage, uid.RTDoseStorage),
        "1.2.840.10008.5.1.4.1.1.66.7",  # label map
    }
)
"""SOP classes whose pixels are labels or quantities, whatever their modality says."""

NO_BRAIN = re.compile(
    # Bones have heads, coils are made for them, and patients lie with theirs first.
    r"(femoral|femur|humeral|humerus|radial|radius|fibular?|talar|metatarsal|pancrea\w*) head|"
    r"head (of (the )?)?(femur|humerus|radius|fibula|pancreas)|head.?(first|coil)|"
    # Directions.
    r"cranio.?caud\w*|caudo.?cran\w*"
)
"""Phrases of brain words that say nothing of the brain: taken out before any word is searched."""

BRAIN = re.compile(
    r"brain|head|cereb|pituit|sella|encephal|hippocamp|skull|"
    # German, Dutch, Scandinavian
    r"kopf|schadel|hirn|hypophys|hersen|hoofd|schedel|hjern|hjarn|"
    # French, Spanish, Portuguese, Italian; cran: crane, cranio, intracranial
    r"\btete\b|cerveau|cran|cabe[zc]a|cerebr|cervell|\btesta\b|hipofis|ipofis|"
    # Polish, Czech, Turkish, Russian
    r"g[lł]ow[ay]|mozg|mozek|hlav[ay]|beyin|мозг|голов|череп|гипофиз|"
    # Japanese and Chinese, Korean
    r"頭|头|脳|脑|颅|뇌|두부"
)

PERHAPS_BRAIN = re.compile(r"neuro|mprage")
"""Departments and techniques: the brain, unless something else is named."""

OTHER = re.compile(
    r"shoulder|\bknees?\b|\bknee|abdom|pelvi|spine|spinal|lumb|thora|chest|cervic|sacr|coccy|\bneck\b|liver|hepat|"
    r"kidney|renal|adrenal|prostat|breast|mamm|\bhips?\b|ankle|wrist|elbow|femur|femoral|thigh|\bcalf\b|calves|tibia|"
    r"fibul|humer|forearm|\buter|\bovar|rectum|rectal|bowel|enterogra|pancrea|spleen|mrcp|biliar|urogra|bladder|"
    r"placent|fetal|fetus|foetal|foetus|testic|scrot|penis|\banal\b|anal fistula|brachial|stern(um|o)|\bribs?\b|clavic|scapul|"
    r"\baort|thyroid|laryn|pharyn|parotid|mandib|maxill|\btmj\b|\bjaw\b|\blungs?\b|whole.?body|\bmsk\b|phantom|"
    r"(extremit|limb)(y|ies|s)?\b|\b[ctl][ -]?sp\b|"
    # German, Dutch
    r"schulter|\bknie|wirbel|hufte|becken|\b[hbl]ws\b|\b[hbl]wk|leber|\bherz|niere|brust|handgelenk|sprunggelenk|"
    r"schenkel|ellenbogen|kiefer|\bhals\b|schouder|\bheup|wervel|\bbuik|\bborst|"
    # French, Spanish, Portuguese, Italian
    r"genou|epaule|rachis|hanche|bassin|cheville|poignet|\bcoude|\bfoie|\bcoeur|\bseins?\b|cuisse|"
    r"rodilla|hombro|columna|cadera|tobillo|muneca|higado|corazon|\bmamas?\b|joelho|ombro|coluna|quadril|tornozelo|figado|"
    r"ginocchi|spalla|colonna|\banca\b|caviglia|fegato|cuore|"
    # Polish, Czech, Turkish, Russian
    r"kolan|kregoslup|koleno|\bdiz\b|omuz|omurga|колен|позвоноч|плеч|живот|брюшн|печен|сердц|\bтаз|"
    # Japanese and Chinese, Korean
    r"膝|肩|脊|腰|肝|腹|胸|骨盆|무릎|척추|어깨|복부"
)

PERHAPS_OTHER = re.compile(r"\bfoot\b|\bfeet\b|\bhands?\b|\bfingers?\b|\blegs?\b|\barms?\b|heart|cardi")
"""What moves, or is listened to, while a brain is being scanned: another part, unless the brain is named."""

LOCALISER_TYPES = frozenset({"LOCALIZER", "LOCALISER", "SCOUT", "SURVEY", "TOPOGRAM", "SCANOGRAM"})
"""PS3.3 C.8.3.1.1.1 (Image Type value 3), and what is written there instead."""

LOCALISER = re.compile(
    r"\bloc\d*\b|(locali[sz]|lokali[sz]|localizz)(ers?|ador|ateur|atore|eur|ator|ing)\b|\blocator|scout|survey|"
    r"3.?plane|three.?plane|3.?pl.?loc|topogram|scano(gram|graf)|smartbrain|reperage|ubersicht|uebersicht|"
    r"\bpilot\b(?!.?stud)|calibration|\basset.?cal|\bcal.?scan|\bref(erence)?.?scan|\bsense.?ref|coil.?(sens|survey)|"
    r"prescan(?!.?norm)|\bshim"
)

MAP_TYPES = frozenset(
    {
        *("ADC", "EADC", "EXPONENTIAL ADC", "DADC", "AVDC", "FA", "FA MAP", "RA", "TRACEW", "TENSOR"),
        *("TENSOR B0", "DIFFUSION ANISO", "COLFA", "COLOR FA", "PHASE", "P", "PHASE MAP", "VELOCITY", "FLOW MAP"),
        *("IMAGINARY", "I", "T1 MAP", "T2 MAP", "T2 STAR MAP", "T2STAR MAP", "T1RHO MAP"),
        *("R1 MAP", "R2 MAP", "R2 STAR MAP", "R2STAR MAP", "B0 MAP", "B1 MAP", "FIELD MAP", "PROTON DENSITY MAP"),
        *("PD MAP", "QSM", "RCBF", "RCBV", "RELCBF", "RELCBV", "RELMTT", "RELTTP", "RELCMTT", "CBF", "CBV", "MTT"),
        *("TTP", "TMAX", "GBP", "PBP", "K2", "KTRANS", "KEP", "IAUC", "PERFUSION", "SUBTRACTION", "MEAN CURVE"),
        *(
            "TTEST",
            "T TEST",
            "TTEST MAP",
            "Z MAP",
            "PROJECTION IMAGE",
            "MAX IP",
            "MIN IP",
            "COLLAPSE",
            "VRT",
            "VOLREND",
        ),
        *("VOLUME RENDERING", "SURFACE", "CSI", "CSI IMAGE", "SPECTRO", "SPECTROSCOPY", "CHEMICAL SHIFT"),
        *("METABOLITE MAP", "SCREEN SAVE", "SCREENSHOT", "SCREEN CAPTURE", "REPORT", "DOSE", "GRAPH", "CURVE"),
    }
)
"""Image Type value 3 or 4 (PS3.3 C.8.13.3.1) and vendors' own, one blank for an underscore: numbers, not anatomy."""

MAP_TYPE = re.compile(r"(MIP|MINIP|MNIP)\b")
"""What such a value begins with where a direction follows."""

MAP_COMPONENTS = frozenset({"PHASE", "IMAGINARY"})
"""Complex Image Component (PS3.3 C.8.13.3.1.1) of what is no picture; MIXED tells of every frame apart.

The real part of an inversion recovery is what radiologists look at (some scanners give no other)."""

MAP = re.compile(
    r"\b(e|d|av)?adc\b|apparent diff|\bfa.?map|col(ou?r)?.?fa\b|\b(dti|diff(usion)?)\b.* fa\b|fractional aniso|"
    r"\br?(el)?.?cb[vf]\b|\bmtt\b|\bttp\b|\btmax\b|k.?trans\b|\b(t1|t2|t2\*|t2.?star|r2|r2\*|r2.?star|pd|b0|b1) ?maps?\b|"
    r"\bqsm\b|\bphase.?(map|image)|\bpha\b|\bpha.images|field.?map|\bfield mapping|\bm(in|ax)?ip\b|\bmnip\b|\bvrt\b|"
    r"volume.?render|(dose|exam|patient|radiation).?(report|info)|protocol.?page|screen.?(save|shot|cap)|spectro|\bcsi\b|"
    r"\bsvs\b|subtract|(perfusion|metabolite|parametric).?map"
)
"""Descriptions of series that are calculated. Not of protocols: one protocol gives pictures and maps."""

BRAIN_CODES = frozenset(
    # Context group 4031 (PS3.16): brain, head, head and neck, skull, pituitary, sella, cerebellum, cerebrum; SCT, then SRT.
    {
        *("12738006", "69536005", "774007", "89546000", "56329008", "42575006", "113305005", "83678007"),
        *("T-A0100", "T-D1100", "T-D1000", "T-11100", "T-B1000", "T-11102", "T-A6000", "T-A0110"),
    }
)
"""Codes of Anatomic Region Sequence that show the brain, whatever language their meaning is in."""

UNTOLD = frozenset({"", "none", "other", "undefined", "unknown"})
"""Body parts that say nothing."""
