"""The words that scripts/make_prompts.py makes tasks of."""

# Concrete nouns for the tasks on a word itself (repeat, letter case, first letter).
NOUNS = """
apple anchor arrow basket beach bell bird blanket boat bottle bread bridge bucket butter button camera candle carpet
castle chair cheese cloud coffee corner cotton desert diamond doctor dragon engine farmer feather fence finger
forest garden giraffe guitar hammer harbor helmet honey island jacket jungle kettle kitchen ladder lemon letter lion
market meadow mirror monkey morning mountain needle ocean orange painter paper pencil pepper piano pillow planet
pocket potato prince puzzle rabbit ribbon river rocket saddle salad school shadow silver singer spider spoon stone
summer sugar table teacher temple thunder tiger tomato tower train tunnel turtle umbrella valley violin wagon walnut
water window winter wizard yellow zebra
""".split()

OPPOSITES = """
hot:cold big:small up:down left:right day:night black:white open:closed happy:sad fast:slow rich:poor young:old
wet:dry full:empty hard:soft high:low long:short strong:weak early:late in:out on:off yes:no good:bad clean:dirty
light:dark near:far heavy:light win:lose push:pull buy:sell begin:end love:hate north:south east:west true:false
summer:winter loud:quiet thick:thin wide:narrow first:last inside:outside above:below before:after always:never
alive:dead tall:short smooth:rough sweet:bitter awake:asleep
""".split()

CAPITALS = """
France:Paris Germany:Berlin Italy:Rome Spain:Madrid Portugal:Lisbon Greece:Athens Austria:Vienna Poland:Warsaw
Russia:Moscow China:Beijing Japan:Tokyo India:New_Delhi Egypt:Cairo Cuba:Havana Peru:Lima Chile:Santiago
Canada:Ottawa Norway:Oslo Sweden:Stockholm Finland:Helsinki Denmark:Copenhagen Ireland:Dublin Hungary:Budapest
Turkey:Ankara Iran:Tehran Iraq:Baghdad Kenya:Nairobi Thailand:Bangkok Vietnam:Hanoi Argentina:Buenos_Aires
Belgium:Brussels England:London Ukraine:Kyiv Colombia:Bogota Australia:Canberra Mexico:Mexico_City Nepal:Kathmandu
Lebanon:Beirut Syria:Damascus Bulgaria:Sofia
""".split()

PLURALS = """
cat:cats dog:dogs car:cars tree:trees book:books house:houses box:boxes bus:buses dish:dishes baby:babies
city:cities leaf:leaves wolf:wolves man:men woman:women child:children foot:feet tooth:teeth mouse:mice goose:geese
apple:apples flower:flowers key:keys boy:boys story:stories glass:glasses watch:watches knife:knives pencil:pencils
horse:horses cow:cows lady:ladies star:stars hand:hands door:doors brush:brushes class:classes party:parties
shoe:shoes river:rivers
""".split()

ZH_WORDS = """
苹果 河流 月亮 书本 老师 朋友 森林 大海 窗户 火车 音乐 花园 雨伞 电脑 飞机 桌子 小猫 太阳 面包
学校
""".split()

ZH_OPPOSITES = """
大:小 高:低 长:短 多:少 快:慢 冷:热 黑:白 上:下 左:右 前:后 开:关 远:近 新:旧 胖:瘦
真:假 里:外 早:晚 轻:重 强:弱 深:浅
""".split()

ZH_CAPITALS = """
中国:北京 日本:东京 法国:巴黎 英国:伦敦 德国:柏林 意大利:罗马 俄罗斯:莫斯科 西班牙:马德里
韩国:首尔 泰国:曼谷 埃及:开罗 希腊:雅典 古巴:哈瓦那 加拿大:渥太华 越南:河内
""".split()

ZH_COLOURS = """
雪:白色 草:绿色 煤:黑色 血:红色 香蕉:黄色 牛奶:白色 草莓:红色 乌鸦:黑色 胡萝卜:橙色
西兰花:绿色
""".split()

ZH_DIGITS = "零一二三四五六七八九十"
ZH_ZODIAC = "鼠牛虎兔龙蛇马羊猴鸡狗猪"
