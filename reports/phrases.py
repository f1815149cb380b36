"""The sentences of findings in other languages than English.

Findings carry English sentences: they are stored, logged and compared. Documents in another language translate them
here, by templates whose variable parts (numbers, DICOM keywords, abbreviations) are kept. A sentence without a
template stays English: it is better read in another language than not at all.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Literal

Language = Literal["en", "zh"]

CHINESE: dict[str, str] = {
    # Refusals and their remedies.
    "The image is only {columns} x {rows} pixels.": "图像仅有 {columns} x {rows} 像素。",
    "Send the film at the resolution it was acquired with.": "请以原始采集分辨率发送图像。",
    "The image has next to no contrast.": "图像几乎没有对比度。",
    "Check exposure and window settings, then send the film again.": "请检查曝光和窗宽窗位设置后重新发送。",
    "Only {found} of 13 bones were found; missing: {names}.": "13 块骨中仅找到 {found} 块；缺少：{names}。",
    "Send a film that shows the whole hand with the wrist, uncovered.": "请发送显示完整手部及腕部且无遮挡的图像。",
    "The film is cut off in {name}: {share} of the bones' surroundings show no detail.": (
        "图像在{name}处截断：骨周围 {share} 的区域无细节。"
    ),
    "The film is too noisy, or has too few grey values, for its bones to be judged.": (
        "图像噪声过大或灰阶过少，无法判断骨骼。"
    ),
    "The film is too blurred for its bones to be judged.": "图像过于模糊，无法判断骨骼。",
    "Many bright or dark lines run across the hand; they look like growth plates to a model.": (
        "多条亮线或暗线横贯手部；模型会将其误认为生长板。"
    ),
    "Check the detector or scanner, and send or take the film again.": "请检查探测器或扫描仪，并重新发送或拍摄图像。",
    "Send the film at the resolution it was acquired with; repeat it if the hand moved.": (
        "请以原始采集分辨率发送图像；如手部移动请重新拍摄。"
    ),
    "No hand was recognised in this image.": "未在图像中识别到手。",
    "Check that the image is a hand radiograph; other images need not be sent to this node.": (
        "请确认图像为手部X线片；其他图像无需发送至本节点。"
    ),
    "Bone age is read by sex, and the sex is not known: {reason}.": "骨龄按性别判读，而性别不明：{reason}。",
    "Correct PatientSex (0010,0040) in the archive and send the study again.": (
        "请在归档系统中更正 PatientSex (0010,0040) 后重新发送检查。"
    ),
    "Check the object with the modality or the archive and send it again.": (
        "请在设备或归档系统中检查该对象后重新发送。"
    ),
    "Send the single-frame greyscale radiograph for presentation (DX for presentation or CR).": (
        "请发送用于显示的单帧灰阶X线图像 (DX for presentation 或 CR)。"
    ),
    "This is a raw image for processing, not the image for presentation that people read.": (
        "这是待处理的原始图像，而非供阅片的显示图像。"
    ),
    "Only CR, DX for presentation and secondary capture images are read as films.": (
        "仅判读 CR、DX for presentation 和二次捕获图像。"
    ),
    "The image is in colour; a radiograph is grey.": "图像为彩色；X线片应为灰阶。",
    "Films have 8 to 16 bits in 8 or 16; this one has {stored} bits in {allocated}.": (
        "图像应为 8 或 16 位中的 8 至 16 位；此图像为 {allocated} 位中的 {stored} 位。"
    ),
    "The header is impossible: BitsStored {stored} is more than BitsAllocated {allocated}.": (
        "头信息矛盾：BitsStored {stored} 大于 BitsAllocated {allocated}。"
    ),
    "The object is cut off: it ends before its data does.": "对象被截断：数据未完即结束。",
    "The object ends before its PixelData: it is cut off, or was stored without it.": (
        "对象在 PixelData 之前结束：被截断，或存储时不含像素数据。"
    ),
    "The pixel data is cut off: it has {held} of the {needed} bytes that the header needs.": (
        "像素数据被截断：头信息需要 {needed} 字节，仅有 {held} 字节。"
    ),
    "Send the object again, whole, under a new SOP Instance UID: this one is taken.": (
        "请以新的 SOP Instance UID 重新完整发送该对象：原 UID 已被占用。"
    ),
    "The object has no PixelData.": "对象没有 PixelData。",
    "The pixel data cannot be decoded ({kind}).": "像素数据无法解码 ({kind})。",
    "The object does not say its transfer syntax.": "对象未说明传输语法。",
    "There is no free decoder for the film's transfer syntax, {syntax}.": (
        "没有可用于该传输语法的自由解码器：{syntax}。"
    ),
    "The header has no usable {keyword}.": "头信息中没有可用的 {keyword}。",
    "Only single-frame films are read; this object has several frames or none.": "仅判读单帧图像；此对象为多帧或无帧。",
    "The film has {pixels} pixels, more than the {most} that are read.": "图像有 {pixels} 像素，超过可判读的 {most}。",
    "PhotometricInterpretation and SamplesPerPixel are not those of a greyscale or RGB film.": (
        "PhotometricInterpretation 与 SamplesPerPixel 不是灰阶或 RGB 图像的值。"
    ),
    "The compressed pixel data is cut off: its end marker is missing.": "压缩像素数据被截断：缺少结束标记。",
    "The compressed pixel data is damaged: part of the film is missing or was changed.": (
        "压缩像素数据已损坏：影像的一部分缺失或被改变。"
    ),
    "The compressed film has another size than Rows, Columns and SamplesPerPixel say.": (
        "压缩图像的尺寸与 Rows、Columns 和 SamplesPerPixel 不符。"
    ),
    "The compressed film has {precision} bits, BitsAllocated is {allocated}.": (
        "压缩图像为 {precision} 位，而 BitsAllocated 为 {allocated}。"
    ),
    "The compressed pixel data has no JPEG frame header.": "压缩像素数据没有 JPEG 帧头。",
    "The compressed pixel data is damaged: it is no row of JPEG segments.": "压缩像素数据已损坏：不是连续的 JPEG 段。",
    "The compressed pixel data lacks a table that it needs to be decoded.": "压缩像素数据缺少解码所需的表。",
    "The compressed pixel data has no JPEG 2000 header.": "压缩像素数据没有 JPEG 2000 头。",
    # Flags.
    "The film was stored with bones dark; it was inverted for reading.": "图像以暗骨存储；判读前已反相。",
    "The film shows {hands} hands; the {side} one was read.": "图像显示 {hands} 只手；判读了{side}手。",
    "The film shows {hands} hands, several of them {side} ones; the framed one was read. Check for a mirrored film.": (
        "图像显示 {hands} 只手，其中不止一只为{side}手；判读了框出的手。请检查图像是否镜像。"
    ),
    "The film may show another hand, not recognised for sure; check that the framed one is the one to be read.": (
        "图像可能还显示另一只手，但未能确认；请核对框出的手是否为应判读的手。"
    ),
    "The header names no side; the thumb shows a {side} hand.": "头信息未说明侧别；拇指显示为{side}手。",
    "The header says {stated} hand, the thumb shows a {side} one; check for a mirrored film.": (
        "头信息为{stated}手，而拇指显示为{side}手；请检查图像是否镜像。"
    ),
    "The hand lies turned by {degrees} degrees; it was read upright.": "手旋转了 {degrees} 度；已摆正后判读。",
    "The estimate lies at the edge of the ages the model was trained on.": "估计值位于模型训练年龄范围的边缘。",
    "Not found: {names}.": "未找到：{names}。",
    "The hand looks unlike those the model was trained on, as under a cast or bandage; check the estimate.": (
        "手部外观与模型训练图像不同（如石膏或绷带遮盖）；请核对估计值。"
    ),
    "A bright, even object, such as a metal plate, lies over or beside a bone; check the estimate.": (
        "有明亮均匀的物体（如金属板）位于骨上或骨旁；请核对估计值。"
    ),
    "A bright or dark line runs across the hand, as of a faulty detector; check the estimate.": (
        "有亮线或暗线横贯手部（如探测器故障所致）；请核对估计值。"
    ),
    "Even lines run across the hand, as of an anti-scatter grid; check the estimate.": (
        "有均匀的线条横贯手部（如滤线栅所致）；请核对估计值。"
    ),
    "The film shows the blocks of a strong compression; fine detail is missing, check the estimate.": (
        "图像可见高压缩率产生的块状伪影；缺失细节，请核对估计值。"
    ),
    "The header says that both sides are in the film.": "头信息说明图像含双侧。",
    "The header contradicts itself about the side, so none is used.": "头信息对侧别的说明自相矛盾，故未采用。",
    "The film's pixels are not square.": "图像的像素不是正方形。",  # of older findings
    "The film's pixels are not square; they were made square for reading.": (
        "图像的像素不是正方形；判读前已转换为正方形像素。"
    ),
    "The film came as a colour image and was converted to grey.": "图像以彩色传来，已转换为灰阶。",
    "The film was compressed with loss; fine detail may be missing.": "图像经过有损压缩；可能缺失细节。",
    "HighBit contradicts the pixel data or BitsStored; the low bits are read.": (
        "HighBit 与像素数据或 BitsStored 矛盾；按低位读取。"
    ),
    "The modality LUT cannot be read; stored values are used.": "模态 LUT 无法读取；采用存储值。",
    "RescaleSlope is 0; stored values are used.": "RescaleSlope 为 0；采用存储值。",
    "The film's own window shows little or nothing; a window was taken from its pixels.": (
        "图像自带窗设置几乎不显示内容；已由像素确定窗。"
    ),
    "The film's own window shows nothing; a window was taken from its pixels.": (  # of older findings
        "图像自带窗设置不显示内容；已由像素确定窗。"
    ),
    "The film's VOI LUT or window cannot be used as the header gives it.": "头信息中的 VOI LUT 或窗设置无法使用。",
    "The display shutter hides most of the film; only what it shows was read.": (
        "显示快门遮住图像的大部分；仅判读其显示的部分。"
    ),
    "The film's display shutter cannot be used as the header gives it; all of the film was read.": (
        "头信息中的显示快门无法使用；判读了整幅图像。"
    ),
    "The header contradicts itself about polarity; PhotometricInterpretation was followed.": (
        "头信息对极性的说明自相矛盾；按 PhotometricInterpretation 处理。"
    ),
    "The header says that this film is displayed with dark bones.": "头信息说明此图像以暗骨显示。",
    "The age was adjusted to this site's readings (recalibration {fingerprint}); the model itself said {age} months.": (
        "年龄已按本院判读校正 (校正 {fingerprint})；模型原值为 {age} 个月。"
    ),
    "The film looks like one of the other sex than PatientSex (0010,0040) says; check it. With the other sex "
    "the estimate would be {months} months {direction}.": (
        "图像看似与 PatientSex (0010,0040) 不同的性别；请核对。若按另一性别，估计值将{direction} {months} 个月。"
    ),
    "The header states more than one sex, so none is used.": "头信息有多个性别，故未采用。",
    "The chronological age is stated in whole {unit} only.": "实际年龄仅以整{unit}说明。",
    "The birth date lies after the examination, so no age is used.": "出生日期晚于检查日期，故未采用年龄。",
    "The header gives an age above 25 years, so no age is used.": "头信息给出的年龄超过 25 岁，故未采用。",
    "The dates of the examination are more than a year apart.": "检查的各日期相差一年以上。",
    "The stated age and the age by birth date differ by more than a year; the birth date is used.": (
        "所述年龄与按出生日期计算的年龄相差一年以上；采用出生日期。"
    ),
    # Where sex and age come from, or why there is none.
    "{keyword} ({tag}) is empty": "{keyword} ({tag}) 为空",
    "{keyword} ({tag}) is missing": "缺少 {keyword} ({tag})",
    "{keyword} ({tag}) has several values": "{keyword} ({tag}) 有多个值",
    "{keyword} ({tag}) says O (other)": "{keyword} ({tag}) 为 O (其他)",
    "{keyword} ({tag}) says U (unknown)": "{keyword} ({tag}) 为 U (未知)",
    "{keyword} ({tag}) is none of M, F and O": "{keyword} ({tag}) 不是 M、F 或 O",
    "{keyword} ({tag}) is no date": "{keyword} ({tag}) 不是日期",
    "{keyword} ({tag}) is no age": "{keyword} ({tag}) 不是年龄",
    "{keyword} ({tag}), in whole {unit}": "{keyword} ({tag})，以整{unit}计",
    "PatientBirthDate and {keyword}": "PatientBirthDate 与 {keyword}",
    "{source} give a negative age": "{source} 得出负年龄",
    "{source} give an age above 25 years": "{source} 得出 25 岁以上的年龄",
    "no usable acquisition, content, series or study date": "没有可用的采集、内容、序列或检查日期",
    # What an assessment could not tell.
    "The chronological age is not known: no SD score.": "实际年龄不明：无标准差分值。",
    "The chronological age lies outside the table of {title}: no SD score.": (
        "实际年龄超出 {title} 表的范围：无标准差分值。"
    ),
    "The chronological age may lie outside the table of {title}: no SD score.": (
        "实际年龄可能超出 {title} 表的范围：无标准差分值。"
    ),
    "Whether the bone age is advanced, delayed or normal depends on the exact chronological age, which is not known.": (
        "骨龄提前、落后或正常取决于确切的实际年龄，而该年龄不明。"
    ),
    "{method} depends on the exact chronological age, which is not known: no adult height by it.": (
        "{method} 取决于确切的实际年龄，而该年龄不明：未据此预测成年身高。"
    ),
    "The change of the SD score is not known: one of the chronological ages is not known exactly.": (
        "标准差分值的变化不明：其中一个实际年龄不确切。"
    ),
    "The change since earlier results is not known: the time between them is not known exactly.": (
        "与既往结果相比的变化不明：其间隔时间不确切。"
    ),
    "This is a test of the connection to the archive, not a result.": "这是与归档系统的连接测试，不是结果。",
    "Earlier results could not be asked of the archive.": "未能向归档系统查询既往结果。",
    "Earlier results under this PatientID have another birth date or sex: nothing is compared. Check whose they are.": (
        "此 PatientID 下的既往结果出生日期或性别不同：未作比较。请核对归属。"
    ),
    "The chronological age is not known: no adult height.": "实际年龄不明：未预测成年身高。",
    "The worklist could not be asked for the height.": "未能向工作列表查询身高。",
    "{method} has no age for a score of {points}: no age by it.": "{method} 表无评分 {points}：未据此给出骨龄。",
    "The height that is stated is not plausible: no adult height.": "所述身高不合理：未预测成年身高。",
    "{method} has no entry for this bone age: no adult height by it.": "{method} 表无此骨龄：未据此预测成年身高。",
    "{method} has no entry for this chronological age: no adult height by it.": (
        "{method} 表无此实际年龄：未据此预测成年身高。"
    ),
    "{method} gives less than the present height: no adult height by it.": (
        "{method} 的结果低于现身高：未据此预测成年身高。"
    ),
    "{method} needs the weight: no adult height by it.": "{method} 需要体重：未据此预测成年身高。",
    "{method} needs the parents' heights: no adult height by it.": "{method} 需要父母身高：未据此预测成年身高。",
    "RWT 1975 (mean height of the parents assumed: {cm} cm)": "RWT 1975 (父母平均身高为假定值：{cm} cm)",
    # Where earlier results come from, and scales that are named with a remark.
    "this node": "本节点",
    "archive": "归档系统",
    "film of the archive, read by this node": "归档系统的图像，由本节点判读",
    "made up for this example": "为本示例虚构",
    "{scale} (approximate)": "{scale} (近似)",
}
"""English templates and their Chinese."""

REGIONS = {
    "radius": "桡骨", "ulna": "尺骨", "capitate-hamate": "头状骨-钩骨", "triquetrum-lunate": "三角骨-月骨",
    "scaphoid": "舟骨", "trapezium-trapezoid": "大多角骨-小多角骨", "carpus": "腕骨",
}  # fmt: skip
"""Regions in people's words; those of fingers are abbreviations in any language."""

WORDS = REGIONS | {
    "left": "左", "right": "右", "only": "单", "days": "天", "weeks": "周", "months": "月", "years": "岁",
    "higher": "高", "lower": "低",
}  # fmt: skip
"""Variable parts that are words."""


def translated(sentence: str, language: Language) -> str:
    """Return a finding's sentence in a language, in English where there is no template for it."""
    if language == "en":
        return sentence
    for pattern, template in _patterns():
        match = pattern.fullmatch(sentence)
        if match is not None:
            return template.format(**{name: _part(value, language) for name, value in match.groupdict().items()})
    if "; " in sentence:  # two reasons in one
        return "；".join(translated(part, language) for part in sentence.split("; "))
    return sentence


def _part(value: str, language: Language) -> str:
    names = value.split(", ")
    if any(name in WORDS for name in names):
        return ", ".join(WORDS.get(name, name) for name in names)
    return translated(value, language)


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((_pattern(english), chinese) for english, chinese in CHINESE.items())


def _pattern(english: str) -> re.Pattern[str]:
    """Return what recognises a template. Variable parts hold no "; ", which joins reasons."""
    parts = re.split(r"\{(\w+)\}", english)
    text = "".join(f"(?P<{part}>(?:(?!; ).)+?)" if place % 2 else re.escape(part) for place, part in enumerate(parts))
    return re.compile(text)
